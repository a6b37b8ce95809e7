"""Clients from npm, unmodified, complete a tool call through the gate: `make clients` installs them.

Not named as a test, for what it needs is not in the environment of the tests. Each client is given a
base URL and a key by its own settings, and a prompt; the simulated provider calls the client's tool,
the client runs it and sends the result, the provider answers with text.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from loadtest.faults import Controls, parse_controls
from loadtest.provider import Provider
from tests.support.gate import KEY, Gate, gate_config, running_gate
from tests.support.upstreams import Sim, sim_provider

HERE = Path(__file__).parent
FOLDER = Path(os.environ["CREDITGATE_CLIENTS"])
"""Where `make clients` has installed them."""

PROMPT = 'How is the tide?\nsim: tool=tide args={"city":"Emden"} tokens=6'
INPUT, OUTPUT = 1000, 4000  # nano-credits a token, of the model `small`


@pytest.fixture
async def sim() -> AsyncIterator[Sim]:
    async with sim_provider() as started:
        yield started


def large(sim: Sim, folder: Path, valkey_socket: Path) -> dict[str, Any]:
    """The models of a gate: one as large as coding agents expect."""
    plain = gate_config(sim.url, folder, f"unix://{valkey_socket}")["models"]["small"]
    return {"small": {**plain, "max_output_tokens": 64_000, "context_tokens": 200_000}}


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    models = large(sim, tmp_path, valkey_socket)
    async with running_gate(tmp_path, valkey_socket, sim.url, models=models) as running:
        yield running


async def run(*command: str | Path, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """The output of a client; fails with all that it said when it fails.

    Nothing of the environment reaches it but the path: no key and no proxy of this machine.
    """
    given = {"PATH": os.environ["PATH"], "HOME": str(folder), **(env or {})}
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env=given,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout=100)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (out + err).decode()
    return out.decode()


async def charged_as_served(gate: Gate, sim: Sim, requests: int) -> None:
    """Each request that the provider has served is one event and charged as served."""
    await gate.settle_all()
    events = await gate.events()
    served = [row for row in sim.provider.served.rows if row.status == 200]
    assert len(events) == len(served) >= requests
    assert {event.facts["usage_source"] for event in events} == {"provider_reported"}
    expected = sum(row.input * INPUT + row.output * OUTPUT for row in served)
    assert await gate.settled_nano() == expected
    assert await gate.held_nano() == 0


def bodies(sim: Sim) -> list[dict[str, Any]]:
    """What the provider was sent."""
    return [json.loads(row.body or "") for row in sim.provider.served.rows]


# -- libraries


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("script", ["vercel.mjs", "langchain.mjs"])
async def test_a_library(gate: Gate, sim: Sim, tmp_path: Path, script: str, api: str) -> None:
    # A module finds its packages beside itself.
    program = FOLDER / script
    program.write_bytes((HERE / script).read_bytes())
    env = {"GATE_URL": gate.url, "GATE_KEY": KEY, "GATE_PROMPT": PROMPT}
    said = json.loads(await run("node", program, api, folder=tmp_path, env=env))
    assert said["cities"] == ["Emden", "Emden"], "once complete, once as a stream"
    assert all(said["texts"])
    await charged_as_served(gate, sim, requests=4)


# -- coding agents


def codex(tmp_path: Path, gate: Gate) -> tuple[list[str | Path], dict[str, str]]:
    """The command and the environment of the Codex CLI."""
    (tmp_path / "config.toml").write_text(
        'model_provider = "gate"\n'
        'model = "small"\n'
        "[model_providers.gate]\n"
        'name = "gate"\n'
        f'base_url = "{gate.url}/v1"\n'
        'env_key = "GATE_KEY"\n'
        'wire_api = "responses"\n'
        "request_max_retries = 0\n"
    )
    program = FOLDER / "node_modules/.bin/codex"
    options = ["exec", "--skip-git-repo-check", "--sandbox", "danger-full-access"]
    return [program, *options], {"CODEX_HOME": str(tmp_path), "GATE_KEY": KEY}


def agent_sim(tool: str, **arguments: str) -> Provider:
    """A provider that calls an agent's tool whatever the prompt says: agents put much around it."""
    written = json.dumps(arguments, separators=(",", ":"))
    return Provider(parse_controls(Controls(), f"tool={tool} args={written}"), record=True)


@pytest.fixture(params=["passes", "priced"])
async def codex_gate(
    request: pytest.FixtureRequest, tmp_path: Path, valkey_socket: Path
) -> AsyncIterator[tuple[Gate, Sim]]:
    """A gate as an operator sets it up for Codex: it always offers the provider's web search."""
    route: dict[str, Any] = {"path": "/v1/responses", "dialect": "openai_responses"}
    if request.param == "passes":
        route["unknown_tools"] = "pass"
    else:
        route |= {"priced_tools": ["web_search"], "max_tool_calls": 2}
    async with sim_provider(agent_sim("exec_command", cmd="touch${IFS}ran")) as sim:
        models = large(sim, tmp_path, valkey_socket)
        models["small"]["prices"] = {**models["small"]["prices"], "per_tool_call": "0.01"}
        more = {"models": models, "routes": {"responses": route}}
        async with running_gate(tmp_path, valkey_socket, sim.url, **more) as gate:
            yield gate, sim


async def test_codex(codex_gate: tuple[Gate, Sim], tmp_path: Path) -> None:
    gate, sim = codex_gate
    command, env = codex(tmp_path, gate)
    work = tmp_path / "work"
    work.mkdir()
    said = await run(*command, "Touch a file.", folder=work, env=env)
    assert (work / "ran").exists(), "the tool has run"
    assert "the sea" in said, "the provider's text"
    await charged_as_served(gate, sim, requests=2)
    sent = bodies(sim)
    kinds = {tool["type"] for document in sent for tool in document["tools"]}
    assert {"function", "namespace", "web_search"} <= kinds
    assert all(re.match("[0-9a-f]{16}-", document["prompt_cache_key"]) for document in sent)


async def test_a_refused_codex_names_the_setting_that_lets_its_web_search_pass(
    gate: Gate, sim: Sim, tmp_path: Path
) -> None:
    command, env = codex(tmp_path, gate)
    with pytest.raises(AssertionError, match=r"web_search[^\n]*unknown_tools: pass"):
        await run(*command, "Hello.", folder=tmp_path, env=env)
    assert sim.provider.served.posts == 0


async def test_claude_code(tmp_path: Path, valkey_socket: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    async with sim_provider(
        agent_sim("Bash", command="touch${IFS}ran", description="Touch")
    ) as sim:
        models = large(sim, tmp_path, valkey_socket)
        async with running_gate(tmp_path, valkey_socket, sim.url, models=models) as gate:
            said = await run(
                "node",
                FOLDER / "node_modules/@anthropic-ai/claude-code/cli-wrapper.cjs",
                *("-p", "Touch a file.", "--model", "small", "--allowedTools", "Bash"),
                folder=work,
                env={
                    "ANTHROPIC_BASE_URL": gate.url,
                    "ANTHROPIC_API_KEY": KEY,
                    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                },
            )
            assert (work / "ran").exists(), "the tool has run"
            assert "the sea" in said, "the provider's text"
            await charged_as_served(gate, sim, requests=2)
            sent = bodies(sim)
            assert any("context_management" in document for document in sent)
            for document in sent:
                assert re.match("[0-9a-f]{16}-", document["metadata"]["user_id"])
                assert len(document["metadata"]["user_id"]) <= 256
