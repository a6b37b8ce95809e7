"""The commands that look at events, and the exporter alone."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import redis.asyncio
from typer.testing import CliRunner

from gateway.cli import app, events, output, verify, why
from gateway.exporter.main import Exporter
from tests.support.bank import Bank
from tests.support.stores import sqlite_sink

COMMANDS = (events, verify, why)
"""Importing them is what registers their commands."""
ROOT = Path(__file__).parents[3]
MODELS = """
upstreams: {sim: {base_url: "http://127.0.0.1:9"}}
models: {m: {upstream: sim, max_output_tokens: 100, prices: {input: "1", output: "2"}}}
"""


@pytest.fixture
def bank(valkey: redis.asyncio.Redis) -> Bank:
    return Bank(valkey)


@pytest.fixture
def config(tmp_path: Path, valkey_socket: Path) -> Path:
    """A configuration on the test's own server."""
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"data_dir: {tmp_path}/data\nredis: {{url: 'unix://{valkey_socket}', shards: 4}}" + MODELS
    )
    return path


def start(config: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", *arguments],
        env={**os.environ, "CREDITGATE_CONFIG": str(config), "COLUMNS": "240"},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def run_program(config: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `creditgate …`."""
    process = start(config, *arguments)
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    return process.returncode, out, err


async def run(config: Path, *arguments: str) -> tuple[int, str, str]:
    """The same of the command in this process."""
    runner = CliRunner(env={"CREDITGATE_CONFIG": str(config)})
    with mock.patch.object(output.out, "_width", 240):  # chosen when it is imported
        result = await asyncio.to_thread(runner.invoke, app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


async def export(bank: Bank, config: Path) -> None:
    exporter = Exporter(bank.outbox, bank.operator, sqlite_sink(config.parent / "data/events.db"))
    exporter.begin()
    await exporter.drain(10)


async def test_the_exporter_alone_delivers_and_ends_on_sigterm(bank: Bank, config: Path) -> None:
    await bank.open("acme")
    await bank.spend("acme", "r1")
    process = start(config, "export", "run")
    deadline = time.monotonic() + 30
    while (await bank.outbox.heads())[bank.ledger.keys.shard_of("acme")].acked is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 0
    assert "3 events delivered, 0 were there already, 0 dead letters, 0 anomalies" in err


async def test_tail_and_show_tell_what_is_stored(bank: Bank, config: Path) -> None:
    await bank.open("acme")
    await bank.open("other")
    for number in range(3):
        await bank.spend("acme", f"r{number}")
    await export(bank, config)
    code, out, _ = await run(config, "events", "tail", "--json", "-n", "2", "--customer", "acme")
    assert code == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert [event["event_id"] for event in told] == ["r1:settled", "r2:settled"]
    assert told[0]["amount"] == "0.000000059"
    code, out, _ = await run(config, "events", "tail")
    assert code == 0
    assert "buy-other" in out
    assert "10 input, 7 output" in out
    code, out, _ = await run(config, "events", "show", "r2:settled", "--json")
    assert json.loads(out) == told[1]
    code, out, _ = await run(config, "events", "show", "r2:settled")
    assert "finish_reason" in out
    code, _, err = await run(config, "events", "show", "r9:settled")
    assert (code, err) == (1, "the store has no event r9:settled\n")


async def test_tail_before_anything_was_exported_is_empty(bank: Bank, config: Path) -> None:
    assert await run(config, "events", "tail") == (0, "", "")


async def test_a_store_that_cannot_be_read_ends_the_command_with_one_line(
    bank: Bank, config: Path
) -> None:
    store = config.parent / "data/events.db"
    store.mkdir(parents=True)
    for words in (("events", "tail"), ("events", "show", "r1:settled"), ("signals", "list")):
        with mock.patch.object(output.err, "_width", 240):
            code, out, err = await run(config, *words)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert f"there is no store at {store}" in err


async def test_tail_follows_what_arrives(bank: Bank, config: Path) -> None:
    await bank.open("acme")
    await export(bank, config)
    process = start(config, "events", "tail", "--follow", "--json", "--customer", "acme")
    assert process.stdout is not None
    lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(2)]
    assert [json.loads(line)["kind"] for line in lines] == ["account", "grant"]
    await bank.spend("acme", "r1")
    await export(bank, config)
    assert json.loads(await asyncio.to_thread(process.stdout.readline))["kind"] == "settle"
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 0


async def test_why_tells_the_story_and_fails_for_a_stranger(bank: Bank, config: Path) -> None:
    await bank.open("acme")
    await bank.spend("acme", "r1")
    code, out, _ = await run(config, "why", "r1")
    assert code == 0
    assert "settle: 0.000000059 credits" in out
    assert "it waits in the outbox" in out
    code, out, _ = await run(config, "why", "r1", "--json")
    assert json.loads(out)["charged"] == "0.000000059"
    code, _, err = await run(config, "why", "r2")
    assert code == 1
    assert "nothing is known about r2" in err


async def test_verify_exits_0_when_clean_and_1_on_drift(bank: Bank, config: Path) -> None:
    await bank.open("acme")
    await bank.spend("acme", "r1")
    code, out, err = await run(config, "verify")
    assert (code, err) == (0, "")
    assert "No drift." in out
    shard = bank.ledger.keys.shard_of("acme")
    await bank.client.zadd(f"{{cg:{shard}}}:due", {"nobody": 1})
    code, out, _ = await run(config, "verify", "--json")
    assert code == 1
    ((drift),) = json.loads(out)["drifts"]
    assert drift["identity"] == "records"
    code, out, _ = await run(config, "verify")
    assert code == 1
    assert "1 drifts." in out


async def test_a_ledger_that_is_not_there_ends_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"data_dir: {tmp_path}\nredis: 'unix://{tmp_path}/none'" + MODELS)
    code, out, err = await run_program(config, "verify")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "ledger" in err


async def test_a_wrong_configuration_ends_with_its_mistakes(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("modells: {}\n")
    code, _, err = await run_program(config, "verify")
    assert code == 1
    assert "modells" in err
    assert "Traceback" not in err


async def test_commands_start_the_embedded_ledger_when_nobody_runs_it(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"data_dir: {tmp_path}/data" + MODELS)
    code, out, err = await run_program(config, "verify")
    assert (code, err) == (0, "")
    assert "0 wallets" in out
    assert not (tmp_path / "data/ledger/server.json").exists()
