"""A worker's service: taking over a configuration under load, draining, and what runs beside."""

import asyncio
import functools
import gc
import os
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import msgpack
import orjson
import pytest
import redis.asyncio
import yaml
from structlog.testing import capture_logs

from gateway.app import background as module
from gateway.app.account_writer import AccountWriter
from gateway.app.gate import Gate as Service
from gateway.app.gate import build_gate
from gateway.app.roles import CannotServe, Resources
from gateway.domain.reservation import Hold
from gateway.flow.reservation.pending_settlement import PendingSettlement
from gateway.ledger.codec.calls import SettleCall
from gateway.ledger.journal import SettleJournal
from gateway.settings import Settings, load_settings
from loadtest.tls import TlsFiles, make_tls_files
from tests.support.gate import KEY, SHARDS, Gate, digest, gate_config, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim, sim, sim_provider, sim_tls, tls_files

__all__ = ["sim", "sim_tls", "tls_files"]

QUICK = "hi\nsim: tokens=3"


def changed(gate: Gate, folder: Path, sim_url: str, **changes: Any) -> Settings:
    """The gate's configuration with these sections instead."""
    url = gate.settings.redis.connection_url()
    assert url is not None
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(gate_config(sim_url, folder / "data", url, **changes)))
    return load_settings(file)


async def take_over(gate: Gate, settings: Settings) -> None:
    await gate.service.prepare(settings)
    gate.service.commit()


# Taking over a configuration


async def test_requests_go_on_while_configurations_are_taken_over_again_and_again(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with (
        sim_provider() as other,
        running_gate(tmp_path, valkey_socket, sim.url) as gate,
    ):
        stop = asyncio.Event()
        seen: Counter[int] = Counter()
        broken: list[str] = []

        async def keep_asking(stream: bool) -> None:
            while not stop.is_set():
                try:
                    answer = await gate.chat("hi\nsim: tokens=8 itl_ms=2", stream=stream)
                except httpx.HTTPError as error:
                    broken.append(repr(error))
                    continue
                seen[answer.status_code] += 1
                if stream and not answer.text.endswith("data: [DONE]\n\n"):
                    broken.append(answer.text)

        asking = [asyncio.create_task(keep_asking(n % 2 == 0)) for n in range(6)]
        for round_no in range(12):
            url = other.url if round_no % 2 == 0 else sim.url
            await take_over(gate, changed(gate, tmp_path, url))
            await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*asking)
        assert broken == []
        assert set(seen) == {200}
        assert other.provider.served.posts > 0 < sim.provider.served.posts
        await gate.settle_all()
        assert await gate.held_nano() == 0
        assert len(await gate.events()) == seen.total()


async def test_a_stream_ends_on_the_upstream_it_began_on_and_its_pool_is_forgotten_then(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        running = asyncio.create_task(gate.chat("hi\nsim: tokens=30 itl_ms=10", stream=True))
        await until(lambda: sim.provider.served.posts == 1)
        pools = [gate.service.configuration.current.pools["sim"][1]]
        pools[0]._supply._idle_s = 0.1
        async with sim_provider() as other:
            await take_over(gate, changed(gate, tmp_path, other.url))
            assert (await gate.chat(QUICK)).status_code == 200
            assert other.provider.served.posts == 1
            assert (await running).text.endswith("data: [DONE]\n\n")
            await until(lambda: pools[0].open_count == 0)
            pools.clear()
            await until(lambda: gc.collect() >= 0 and len(gate.service.pools) == 1)


async def test_what_does_not_change_keeps_its_connections(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        await gate.chat(QUICK)
        before = gate.service.configuration.current.pools["sim"][1]
        await take_over(gate, changed(gate, tmp_path, sim.url, policy={"preset": "strict"}))
        await gate.chat(QUICK)
        assert gate.service.configuration.current.pools["sim"][1] is before
        assert before.open_count == 1


def tls_upstream(sim_tls: Sim, ca_file: Path) -> dict[str, Any]:
    return {"sim": {"base_url": sim_tls.url, "tls": {"ca_file": str(ca_file)}}}


async def test_certificates_with_new_contents_make_a_new_pool(
    tmp_path: Path, valkey_socket: Path, sim_tls: Sim, tls_files: TlsFiles
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    other = make_tls_files(folder)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(other.authority.read_bytes())
    upstreams = tls_upstream(sim_tls, ca_file)
    async with running_gate(tmp_path, valkey_socket, sim_tls.url, upstreams=upstreams) as gate:
        assert (await gate.chat(QUICK)).status_code == 502, "not the authority that signed it"
        ca_file.write_bytes(tls_files.authority.read_bytes())
        settings = changed(gate, tmp_path, sim_tls.url, upstreams=upstreams)
        assert settings.upstreams == gate.settings.upstreams
        assert settings.digest != gate.settings.digest
        await take_over(gate, settings)
        assert (await gate.chat(QUICK)).status_code == 200
        before = gate.service.configuration.current.pools["sim"][1]
        await take_over(gate, changed(gate, tmp_path, sim_tls.url, upstreams=upstreams))
        assert gate.service.configuration.current.pools["sim"][1] is before


async def test_certificates_that_cannot_be_used_are_refused_and_the_present_stays(
    tmp_path: Path, valkey_socket: Path, sim_tls: Sim, tls_files: TlsFiles
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(tls_files.authority.read_bytes())
    upstreams = tls_upstream(sim_tls, ca_file)
    async with running_gate(tmp_path, valkey_socket, sim_tls.url, upstreams=upstreams) as gate:
        ca_file.write_text("not a certificate")
        settings = changed(gate, tmp_path, sim_tls.url, upstreams=upstreams)
        with pytest.raises(CannotServe, match=r"upstreams\.sim\.tls"):
            await gate.service.prepare(settings)
        assert (await gate.chat(QUICK)).status_code == 200


async def test_what_was_prepared_and_aborted_changes_nothing(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        await gate.service.prepare(changed(gate, tmp_path, "http://127.0.0.1:9"))
        gate.service.abort()
        assert (await gate.chat(QUICK)).status_code == 200
        with pytest.raises(AssertionError, match="commit follows prepare"):
            gate.service.commit()


async def test_a_customer_who_is_taken_out_is_refused_from_then_on(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        other = {"other": {"keys": [{"id": "k_other", "sha256": digest("sk-other")}]}}
        await take_over(gate, changed(gate, tmp_path, sim.url, customers=other))
        assert (await gate.chat(QUICK)).status_code == 401


async def test_new_limits_count_from_the_takeover_on(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        assert (await gate.chat(QUICK)).status_code == 200
        acme = {
            "keys": [{"id": "k_acme", "sha256": digest(KEY)}],
            "limits": [{"measure": "requests", "window": "month", "ceiling": "1"}],
        }
        await take_over(gate, changed(gate, tmp_path, sim.url, customers={"acme": acme}))
        assert [(await gate.chat(QUICK)).status_code for _ in range(2)] == [200, 429]


async def test_a_ledger_that_is_away_refuses_a_configuration_but_not_the_gate(
    tmp_path: Path, valkey_socket: Path, sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        settings = changed(gate, tmp_path, sim.url)

        async def away(*_: object, **__: object) -> None:
            raise redis.asyncio.ConnectionError("away")

        with monkeypatch.context() as broken:
            broken.setattr(redis.asyncio.client.Pipeline, "execute", away)
            with pytest.raises(CannotServe):
                await gate.service.prepare(settings)
        assert (await gate.chat(QUICK)).status_code == 200


async def test_a_gate_without_a_ledger_cannot_serve(tmp_path: Path, sim: Sim) -> None:
    file = tmp_path / "gateway.yaml"
    nowhere = f"unix://{tmp_path}/nothing"
    file.write_text(yaml.safe_dump(gate_config(sim.url, tmp_path / "data", nowhere)))
    resources = Resources(nowhere, str(tmp_path / "data"), "worker-0")
    with pytest.raises(CannotServe, match="cannot be reached"):
        await build_gate(load_settings(file), resources)


# Draining


async def test_a_drain_lets_streams_end_and_settles_them_all(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        asked = [
            asyncio.create_task(gate.chat("hi\nsim: tokens=30 itl_ms=15", stream=True))
            for _ in range(20)
        ]
        await until(lambda: sim.provider.served.posts == 20)
        draining = asyncio.create_task(gate.service.drain(10))
        await asyncio.sleep(0.05)
        with pytest.raises(httpx.ConnectError):
            await gate.client.get("/readyz")
        answers = await asyncio.gather(*asked)
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
        await draining
        events = await gate.events()
        assert [event.kind for event in events] == ["settle"] * 20
        assert {event.usage["output"] for event in events} == {30}
        assert await gate.held_nano() == 0
        assert list((tmp_path / "data" / "journal").iterdir()) == []


STRICT = {"preset": "strict", "drain_max_ms": 60_000}


@pytest.mark.parametrize("policy", ["charge_seen", "drain", "charge_hold", "charge_input"])
@pytest.mark.parametrize("hidden", [False, True])
async def test_what_outlives_the_grace_is_charged_what_was_delivered_whatever_the_policy(
    tmp_path: Path, valkey_socket: Path, sim: Sim, policy: str, hidden: bool
) -> None:
    settings = {**STRICT, "disconnect_stream": policy}
    models = {
        "small": {
            "upstream": "sim",
            "prices": {"input": "1.00", "output": "4.00"},
            "max_output_tokens": 4096,
            "hidden_output": hidden,
        }
    }
    async with running_gate(
        tmp_path, valkey_socket, sim.url, policy=settings, models=models
    ) as gate:
        asked = [
            asyncio.create_task(gate.chat("hi\nsim: tokens=2000 itl_ms=20", stream=True))
            for _ in range(5)
        ]
        await until(lambda: sim.provider.served.posts == 5)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await gate.service.drain(0.2)
        assert time.monotonic() - began < 0.2 + 5, "what the supervisor allows"
        delivered = []
        for answer in await asyncio.gather(*asked):
            *chunks, error, done = answer.text.split("\n\n")[:-1]
            assert done == "data: [DONE]"
            frame = orjson.loads(error.removeprefix("data: "))
            assert frame["choices"][0]["finish_reason"] == "error"
            assert frame["error"]["metadata"]["reason"] == "gate_stopped"
            texts = [orjson.loads(c.removeprefix("data: "))["choices"] for c in chunks]
            delivered.append(sum(bool(t and t[0]["delta"].get("content")) for t in texts))
        events = await gate.events()
        assert [event.kind for event in events] == ["settle"] * 5
        assert sorted(event.usage["output"] for event in events) == sorted(delivered)
        assert {tuple(event.facts["flags"]) for event in events} == {("gate_stopped",)}
        assert await gate.held_nano() == 0


@pytest.mark.parametrize("policy", ["drain", "charge_hold", "charge_input"])
async def test_a_json_request_that_outlives_the_grace_costs_nothing_and_may_be_retried(
    tmp_path: Path, valkey_socket: Path, sim: Sim, policy: str
) -> None:
    settings = {**STRICT, "disconnect_json": policy}
    async with running_gate(tmp_path, valkey_socket, sim.url, policy=settings) as gate:
        asked = asyncio.create_task(gate.chat("hi\nsim: hang=before_head"))
        await until(lambda: sim.provider.served.posts == 1)
        await gate.service.drain(0.05)
        answer = await asked
        assert answer.status_code == 503
        assert answer.json()["error"]["metadata"]["reason"] == "gate_stopped"
        assert answer.headers["retry-after"] == "1"
        assert "x-should-retry" not in answer.headers
        event = await gate.one_event()
        assert (event.kind, event.amount_nano) == ("release", 0)
        assert event.facts["flags"] == ["gate_stopped"]


async def test_a_client_that_reads_nothing_does_not_hold_up_the_end(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    settings = {**STRICT, "disconnect_stream": "charge_hold"}
    prices = {"input": "1.00", "output": "4.00"}
    models = {"small": {"upstream": "sim", "prices": prices, "max_output_tokens": 200_000}}
    async with running_gate(
        tmp_path, valkey_socket, sim.url, policy=settings, models=models
    ) as gate:
        content = "hi\nsim: tokens=200000"  # more than any socket buffers
        messages = [{"role": "user", "content": content}]
        body = {"model": "small", "stream": True, "max_tokens": 200_000, "messages": messages}
        async with gate.client.stream(
            "POST", "/v1/chat/completions", json=body, headers=gate.headers
        ) as answer:
            assert answer.status_code == 200
            await asyncio.sleep(0.5)
            began = time.monotonic()
            await gate.service.drain(0.1)
            assert time.monotonic() - began < 0.1 + 5
        event = await gate.one_event()
        assert 0 < event.usage["output"] < 200_000
        assert event.facts["flags"] == ["gate_stopped"]


async def test_an_operator_in_a_hurry_shortens_the_grace(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        asked = asyncio.create_task(gate.chat("hi\nsim: tokens=5000 itl_ms=20", stream=True))
        await until(lambda: sim.provider.served.posts == 1)
        first = asyncio.create_task(gate.service.drain(60))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await gate.service.drain(60)
            await first
        assert '"finish_reason":"error"' in (await asked).text
        event = await gate.one_event()
        assert (event.kind, event.facts["flags"]) == ("settle", ["gate_stopped"])
        assert await gate.held_nano() == 0


# Beside the requests


async def test_the_journal_of_a_dead_worker_is_delivered_once_by_whoever_finds_it(
    tmp_path: Path,
    valkey_socket: Path,
    sim: Sim,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REPLAY_EVERY_S", 0.02)
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        others = [await second_worker(gate, tmp_path, n) for n in (1, 2)]
        with capture_logs() as logs:
            for _ in range(5):
                dead = SettleJournal(tmp_path / "data" / "journal")
                await dead.append(await unsettled(gate))
                os.close(dead._fd)  # as the kernel does when a process dies
                await until(functools.partial(gone, dead.path))
            await asyncio.sleep(0.1)
        assert not [line for line in logs if line["event"] == "background_failed"]
        replayed = [line for line in logs if line["event"] == "journal_replayed"]
        assert sum(line["delivered"] for line in replayed) == 5
        assert [event.kind for event in await gate.events()] == ["settle"] * 5
        assert await gate.held_nano() == 0
        for other in others:
            await other.drain(1)


def gone(path: Path) -> bool:
    return not path.exists()


async def second_worker(gate: Gate, folder: Path, number: int) -> Service:
    """Another worker of the same gate, on a port of its own."""
    url = gate.settings.redis.connection_url()
    assert url is not None
    resources = Resources(url, str(folder / "data"), f"worker-{number}")
    service = await build_gate(gate.settings, resources)
    await service.start(socket.create_server(("127.0.0.1", 0)))
    return service


async def unsettled(gate: Gate) -> dict[str, Any]:
    """A hold, and the settle of it that a dead worker had journaled."""
    account = next(iter(gate.service.flow.accounts._accounts.values()))
    prices = gate.service.flow.catalog.models["small"].prices
    request_id = os.urandom(8).hex()
    facts = msgpack.packb({"customer_id": account.customer_id, "request_id": request_id})
    hold = await gate.ledger.reserve(
        account,
        request_id,
        prices,
        prices.vector({"input": 10, "output": 10}),
        prices.vector({"input": 10}),
        facts,
        tokens=20,
        ttl_ms=60_000,
    )
    assert isinstance(hold, Hold)
    call = SettleCall(
        request_id,
        prices,
        prices.vector({"input": 10, "output": 5}),
        facts,
        15,
        hold.reserved_at_ms,
    )
    return PendingSettlement(account, call).as_record()


async def test_background_work_that_fails_is_logged_and_is_restarted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RESTART_AFTER_S", 0.001)
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ValueError("sk-canary")
        await asyncio.Event().wait()

    with capture_logs() as logs:
        task = asyncio.create_task(module.forever(work))
        await until(lambda: begun == 3)
        await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    assert [line["event"] for line in logs] == ["background_failed"] * 2
    assert "canary" not in repr(logs)


async def test_the_gate_keeps_to_its_namespace(
    tmp_path: Path, valkey_socket: Path, valkey: redis.asyncio.Redis, sim: Sim
) -> None:
    ledger = {"url": f"unix://{valkey_socket}", "shards": SHARDS, "namespace": "mine"}
    file = tmp_path / "gateway.yaml"
    config = gate_config(sim.url, tmp_path / "data", "unused", redis=ledger)
    file.write_text(yaml.safe_dump(config))
    settings = load_settings(file)
    url = str(ledger["url"])
    await AccountWriter().write(settings, url)
    service = await build_gate(settings, Resources(url, str(tmp_path / "data"), "worker-0"))
    sock = socket.create_server(("127.0.0.1", 0))
    await service.start(sock)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}") as client:
        headers = {"authorization": f"Bearer {KEY}"}
        body = {"model": "small", "messages": [{"role": "user", "content": QUICK}]}
        assert (await client.post("/v1/chat/completions", json=body, headers=headers)).is_success
        body["model"] = "unheard-of"
        refused = await client.post("/v1/chat/completions", json=body, headers=headers)
        assert refused.status_code == 404
    await service.drain(2)
    keys = [key async for key in valkey.scan_iter()]
    assert any(b"refusals" in key for key in keys)
    assert [key for key in keys if not key.startswith((b"mine", b"{mine"))] == []


async def test_the_metrics_say_what_is_open_and_what_was_decided(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:

        def value(name: str) -> Any:
            return {tuple(k): v for k, v in gate.service.snapshot()[name]["samples"]}

        running = asyncio.create_task(gate.chat("hi\nsim: tokens=20 itl_ms=20", stream=True))
        await until(lambda: sim.provider.served.posts == 1)
        assert value("creditgate_holds_open") == {(): 1}
        assert value("creditgate_held_credits")[()] > 0
        await running
        await gate.chat("hi\nsim: status=500")
        await gate.chat(QUICK, model="nothing")
        await gate.settle_all()
        assert value("creditgate_holds_open") == value("creditgate_held_credits") == {(): 0}
        assert value("creditgate_reservations_ended_total") == {("settled",): 1, ("released",): 1}
        assert value("creditgate_decisions_total") == {
            ("allow", ""): 2,
            ("deny", "unknown_model"): 1,
        }


async def test_probes_leave_no_line_in_the_log(
    tmp_path: Path, valkey_socket: Path, sim: Sim, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        for path in ("/healthz", "/readyz", "/readyz?verbose=1"):
            assert (await gate.client.get(path)).status_code == 200
        assert (await gate.client.head("/healthz")).status_code == 200
        assert (await gate.client.get("/v1/models", headers=gate.headers)).status_code == 200
        said = ""

        def has_come() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "/v1/models" in said

        await until(has_come)
    lines = [line for line in said.splitlines() if '"event":"request"' in line]
    assert len(lines) == 1
