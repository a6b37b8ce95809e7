"""The operator ends what runs: on every worker, whether or not the news reaches it.

Two gates stand on one ledger, as two workers do. Streams here would run for minutes: a test that
waits for one to end fails by its deadline.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from gateway.domain.events import Event
from gateway.ledger.changes import Changes
from tests.support.gate import KEY, Gate, digest, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim

LONG = "hi\nsim: tokens=60000 itl_ms=5"
OTHER_KEY = "sk-test-other"
SOON = {"preset": "balanced", "checkpoint_interval_ms": 200}
LATE = {"preset": "balanced", "checkpoint_interval_ms": 600_000, "hold_ttl_ms": 3_000_000}


@asynccontextmanager
async def two_gates(
    folder: Path, valkey_socket: Path, sim: Sim, policy: dict[str, Any]
) -> AsyncIterator[tuple[Gate, Gate]]:
    async with AsyncExitStack() as stack:
        gates: list[Gate] = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            gate = running_gate(
                folder / name, valkey_socket, sim.url, policy=policy, empty=not gates
            )
            gates.append(await stack.enter_async_context(gate))
        await gates[0].store.keys.add(digest(OTHER_KEY), "k_other", "acme")
        yield gates[0], gates[1]


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gate receives announcements of changes."""

    async def hear_nothing(*_: Callable[..., None]) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Changes, "follow", hear_nothing)


class Stream:
    """A running stream and what of it has come."""

    def __init__(self, gate: Gate, key: str, content: str = LONG) -> None:
        self.text = ""
        self.task = asyncio.create_task(self._read(gate, key, content))

    async def _read(self, gate: Gate, key: str, content: str) -> None:
        body = {
            "model": "small",
            "stream": True,
            "messages": [{"role": "user", "content": content}],
        }
        headers = {**gate.headers, "authorization": f"Bearer {key}"}
        async with gate.client.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as answer:
            async for piece in answer.aiter_text():
                self.text += piece

    async def begun(self) -> "Stream":
        await until(lambda: self.text.count("data:") > 5)
        return self

    async def error(self) -> dict[str, Any]:
        """The error frame that it ended in."""
        await asyncio.wait_for(self.task, 30)
        *_, frame, done, rest = self.text.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        chunk: dict[str, Any] = orjson.loads(frame.removeprefix("data: "))
        assert chunk["choices"][0]["finish_reason"] == "error"
        error: dict[str, Any] = chunk["error"]
        return error

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait((self.task,))


async def kill_wallet(gate: Gate, **terms: Any) -> None:
    """What `wallet freeze --kill` does in the ledger, without the announcement."""
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    terms = {"killed": True} | terms
    await gate.ledger.account("acme", account_rev=wallet.account_rev + 1, **terms)


async def announce(gate: Gate) -> None:
    await Changes(gate.store._client).announce("acme")


async def ended(*gates: Gate) -> list[Event]:
    """Every request has one event, nothing is held, and the wallet was charged what they say."""
    for gate in gates:
        await until(lambda gate=gate: not gate.live)  # type: ignore[misc]
        await gate.settle_all()
    events = await gates[0].events()
    assert len({event.reservation_id for event in events}) == len(events)
    assert await gates[0].held_nano() == 0
    assert await gates[0].settled_nano() == sum(event.amount_nano for event in events)
    return events


async def ask(gate: Gate, key: str) -> httpx.Response:
    body = {"model": "small", "messages": [{"role": "user", "content": "hi\nsim: tokens=3"}]}
    return await gate.post("/v1/chat/completions", body, headers={"authorization": f"Bearer {key}"})


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize("how", ["frozen", "killed", "revoked"])
async def test_the_next_request_is_refused_by_every_worker_that_has_heard_nothing(
    tmp_path: Path, valkey_socket: Path, sim: Sim, how: str
) -> None:
    async with two_gates(tmp_path, valkey_socket, sim, LATE) as gates:
        for gate in gates:
            for key in (KEY, OTHER_KEY):
                assert (await ask(gate, key)).status_code == 200
        posts = sim.provider.served.posts
        if how == "revoked":
            await gates[0].store.keys.revoke(gates[0].ledger.wallets, "k_other")
        else:
            await kill_wallet(gates[0], frozen=True, killed=how == "killed")
        for gate in gates:
            refused = await ask(gate, OTHER_KEY)
            assert refused.status_code == (401 if how == "revoked" else 402)
            if how != "revoked":
                assert refused.json()["error"]["metadata"]["reason"] == "wallet_frozen"
        assert sim.provider.served.posts == posts


@pytest.mark.usefixtures("deaf")
async def test_a_killed_wallet_s_streams_are_cut_at_their_next_checkpoint_unheard(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with two_gates(tmp_path, valkey_socket, sim, SOON) as gates:
        streams = [await Stream(gate, KEY).begun() for gate in gates]
        await kill_wallet(gates[0])
        for stream in streams:
            error = await stream.error()
            assert error["metadata"]["reason"] == "wallet_killed"
        for event in await ended(*gates):
            assert event.kind == "settle"
            assert event.usage["output"] > 5
            assert (event.facts["finish_reason"], event.facts["flags"]) == ("error", ["killed"])


async def test_who_hears_of_it_cuts_at_once(tmp_path: Path, valkey_socket: Path, sim: Sim) -> None:
    async with two_gates(tmp_path, valkey_socket, sim, LATE) as gates:
        streams = [await Stream(gate, KEY).begun() for gate in gates]
        await kill_wallet(gates[1])
        await announce(gates[1])
        for stream in streams:
            assert (await stream.error())["metadata"]["reason"] == "wallet_killed"
        await ended(*gates)
        await gates[0].ledger.account("acme", account_rev=3)  # thawed
        assert (await ask(gates[0], KEY)).status_code == 200


async def test_who_lost_the_connection_looks_when_it_is_back(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with two_gates(tmp_path, valkey_socket, sim, LATE) as gates:
        stream = await Stream(gates[0], KEY).begun()
        await kill_wallet(gates[0])
        await gates[0].store._client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert (await stream.error())["metadata"]["reason"] == "wallet_killed"
        await ended(*gates)


@pytest.mark.parametrize("heard", [True, False])
async def test_a_killed_key_s_streams_are_cut_and_no_others(
    tmp_path: Path, valkey_socket: Path, sim: Sim, heard: bool
) -> None:
    async with two_gates(tmp_path, valkey_socket, sim, LATE if heard else SOON) as gates:
        killed = [await Stream(gate, OTHER_KEY).begun() for gate in gates]
        other = await Stream(gates[0], KEY).begun()
        await gates[0].store.keys.revoke(gates[0].ledger.wallets, "k_other", kill=True)
        if heard:
            await announce(gates[0])
        for stream in killed:
            error = await stream.error()
            assert (error["code"], error["metadata"]["reason"]) == (
                "invalid_api_key", "key_revoked",
            )  # fmt: skip
        before = len(other.text)
        await until(lambda: len(other.text) > before + 1000)
        await other.leave()
        flags = [event.facts["flags"] for event in await ended(*gates)]
        assert sorted(flags) == [["client_gone"], ["killed"], ["killed"]]


async def test_revoked_or_frozen_without_a_kill_lets_streams_run(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with two_gates(tmp_path, valkey_socket, sim, SOON) as gates:
        stream = await Stream(gates[0], OTHER_KEY, "hi\nsim: tokens=200 itl_ms=5").begun()
        await gates[0].store.keys.revoke(gates[0].ledger.wallets, "k_other")
        await kill_wallet(gates[0], frozen=True, killed=False)
        await asyncio.wait_for(stream.task, 30)
        [event] = await ended(*gates)
        assert (event.usage["output"], event.facts["flags"]) == (200, [])


@pytest.mark.parametrize("disconnect_json", ["drain", "charge_input", "charge_hold"])
async def test_a_json_answer_in_flight_is_refused_and_nothing_is_charged_for_it(
    tmp_path: Path, valkey_socket: Path, sim: Sim, disconnect_json: str
) -> None:
    policy = {**LATE, "disconnect_json": disconnect_json}
    async with two_gates(tmp_path, valkey_socket, sim, policy) as gates:
        asked = asyncio.create_task(gates[0].chat("hi\nsim: hang=before_head", max_tokens=50))
        await until(lambda: sim.provider.served.posts == 1)
        await kill_wallet(gates[0])
        await announce(gates[0])
        answer = await asked
        assert (answer.status_code, answer.headers["x-should-retry"]) == (402, "false")
        assert answer.json()["error"]["metadata"]["reason"] == "wallet_killed"
        [event] = await ended(*gates)
        assert (event.kind, event.amount_nano) == ("release", 0)
        assert event.facts["flags"] == ["killed"]


async def test_what_the_upstream_never_heard_of_is_released(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with two_gates(tmp_path, valkey_socket, sim, LATE) as gates:
        pool = gates[0].service.configuration.current.pools["sim"][1]
        pool._supply._connections_most = 0
        asked = asyncio.create_task(gates[0].chat("hi", max_tokens=50))
        await until(lambda: len(gates[0].live) == 1)
        await kill_wallet(gates[0])
        await announce(gates[0])
        assert (await asked).status_code == 402
        [event] = await ended(*gates)
        assert (event.kind, event.amount_nano) == ("release", 0)
        assert sim.provider.served.posts == 0
