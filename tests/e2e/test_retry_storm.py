"""Official SDKs with their default retries, many at once, against each refusal: a terminal one is
never retried, a transient one no sooner than Retry-After says, and what was charged twice is marked.

Each scenario ends with the identities, and with `verify`, which finds nothing.
"""

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from msgpack import packb

from gateway.domain.events import Event
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Account, Hold
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.flow.context import RequestContext
from gateway.flow.handler import Flow
from gateway.flow.known_head import KnownHead
from gateway.ledger.audit import Audit
from gateway.ledger.identities import check_identities
from gateway.operations.verify import verify
from tests.ledger.servers import OwnServer, server
from tests.support.gate import BROKE_KEY, KEY, Gate, Serve, digest, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim

ATTEMPTS = 3
"""Of one call: the SDKs retry twice."""
SOON_S = 0.02
"""How much too early a retry may seem to come, by another clock."""

pytestmark = pytest.mark.parametrize(
    "each", [pytest.param(3, id="few"), pytest.param(25, id="many", marks=pytest.mark.long)]
)


class Arrivals:
    """When each call's attempts came to the gate."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = defaultdict(list)

    def pauses(self) -> list[float]:
        """Between the attempts of each call."""
        return [b - a for at in self.of.values() for a, b in pairwise(at)]

    def counts(self) -> set[int]:
        return {len(at) for at in self.of.values()}


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The first call of an SDK builds its types, for half a second: before the clocks run."""
    message: Any = {
        "model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}],
    }  # fmt: skip
    nowhere = "http://127.0.0.1:1"
    with pytest.raises(openai.APIConnectionError):
        openai.OpenAI(base_url=nowhere, api_key="k", max_retries=0).chat.completions.create(
            **message
        )
    with pytest.raises(anthropic.APIConnectionError):
        anthropic.Anthropic(base_url=nowhere, api_key="k", max_retries=0).messages.create(**message)


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    seen, concluded = Arrivals(), Flow._know

    async def noting(flow: Flow, context: RequestContext) -> KnownHead:
        call = context.exchange.header("x-call") or ""
        seen.of[call].append(asyncio.get_running_loop().time())
        return await concluded(flow, context)

    monkeypatch.setattr(Flow, "_know", noting)
    return seen


class Storm:
    """Calls of both SDKs as their users write them, but for the header that tells them apart."""

    def __init__(self, gate: Gate, each: int, key: str = KEY, **options: Any) -> None:
        self.openai = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=key, **options)
        self.anthropic = anthropic.AsyncAnthropic(base_url=gate.url, api_key=key, **options)
        self.each = each

    async def run(
        self, content: str = "hi\nsim: tokens=3", *, model: str = "small", name: str | None = None
    ) -> list[BaseException | Any]:
        """All at once; what each call gave or raised."""
        calls: list[Awaitable[Any]] = []
        for number in range(self.each):
            messages: Any = [{"role": "user", "content": f"call {number}: {content}"}]
            if name is not None:
                messages = [{"role": "user", "content": content}]
            for sdk in ("openai", "anthropic"):
                headers = {"x-call": f"{sdk}-{number}"}
                if name is not None:
                    headers["idempotency-key"] = name
                said: Any = {
                    "model": model, "max_tokens": 8, "messages": messages, "extra_headers": headers,
                }  # fmt: skip
                if sdk == "openai":
                    calls.append(self.openai.chat.completions.create(**said))
                else:
                    calls.append(self.anthropic.messages.create(**said))
        results = await asyncio.gather(*calls, return_exceptions=True)
        await self.openai.close()
        await self.anthropic.close()
        return results


def statuses(results: list[Any]) -> list[int]:
    """What each call ended with."""
    return sorted(200 if hasattr(each, "usage") else each.status_code for each in results)


def denials(gate: Gate, reason: str) -> float:
    """How often the gate has refused for this."""
    samples = gate.service.snapshot()["creditgate_decisions_total"]["samples"]
    return sum(float(count) for labels, count in samples if labels == ["deny", reason])


async def charged(gate: Gate) -> list[Event]:
    """The events that cost something, after all has ended and every identity has been looked at."""
    await until(lambda: not gate.live, within_s=20)
    await gate.settle_all()

    async def nothing_held() -> bool:
        return await gate.held_nano() == 0

    await until(nothing_held, within_s=20)
    client: Any = gate.store._client
    assert await check_identities(gate.store, client) == []
    verified = await verify(Audit(client, gate.store.names), gate.outbox, SqliteStore.empty())
    assert verified.clean, verified.drifts
    return [event for event in await gate.events() if event.amount_nano]


@asynccontextmanager
async def limited(
    tmp_path: Path, socket: Path, sim: Sim, limit: dict[str, Any]
) -> AsyncIterator[Gate]:
    acme = {
        "grants": [{"name": "start", "amount": "10.00", "category": "paid"}],
        "keys": [{"id": "k_acme", "sha256": digest(KEY)}],
        "limits": [limit],
    }
    async with running_gate(tmp_path, socket, sim.url, customers={"acme": acme}) as gate:
        yield gate


async def test_402_is_asked_once(gate: Gate, sim: Sim, arrivals: Arrivals, each: int) -> None:
    results = await Storm(gate, each, BROKE_KEY).run()
    assert statuses(results) == [402] * 2 * each
    assert arrivals.counts() == {1}
    assert sim.provider.served.posts == 0
    assert await charged(gate) == []


async def test_429_of_a_limit_that_will_not_open_is_asked_once(
    tmp_path: Path, valkey_socket: Path, sim: Sim, arrivals: Arrivals, each: int
) -> None:
    limit = {"measure": "requests", "window": "total", "ceiling": "1"}
    async with limited(tmp_path, valkey_socket, sim, limit) as gate:
        assert (await gate.chat("hi\nsim: tokens=3")).status_code == 200
        await gate.settle_all()
        arrivals.of.clear()
        results = await Storm(gate, each).run()
        assert statuses(results) == [429] * 2 * each
        assert arrivals.counts() == {1}
        assert sim.provider.served.posts == len(await charged(gate)) == 1


async def test_429_of_a_limit_that_others_hold_is_asked_again_until_it_is_used_up(
    tmp_path: Path, valkey_socket: Path, sim: Sim, arrivals: Arrivals, each: int
) -> None:
    limit = {"measure": "requests", "window": "total", "ceiling": str(each)}
    async with limited(tmp_path, valkey_socket, sim, limit) as gate:
        results = await Storm(gate, each).run("hi\nsim: tokens=3 ttft_ms=300")
        assert statuses(results) == [200] * each + [429] * each
        assert max(arrivals.counts()) <= 2, "the second time it is used up"
        assert all(pause >= 1 - SOON_S for pause in arrivals.pauses())
        assert sim.provider.served.posts == len(await charged(gate)) == each


async def test_429_of_a_concurrency_limit_is_asked_again_when_told(
    tmp_path: Path, valkey_socket: Path, sim: Sim, arrivals: Arrivals, each: int
) -> None:
    limit = {"measure": "concurrent", "ceiling": str(each)}
    async with limited(tmp_path, valkey_socket, sim, limit) as gate:
        results = await Storm(gate, each).run("hi\nsim: tokens=3 ttft_ms=800")
        assert statuses(results) == [200] * 2 * each, "each found room in the end"
        assert max(arrivals.counts()) <= ATTEMPTS
        assert arrivals.pauses()
        assert min(arrivals.pauses()) >= 1 - SOON_S
        events = await charged(gate)
        assert sim.provider.served.posts == len(events) == 2 * each
        assert {event.facts["retry_of"] for event in events} == {None}


async def test_429_of_held_credit_is_asked_again_when_told(
    gate: Gate, sim: Sim, arrivals: Arrivals, each: int
) -> None:
    """A hold fills the wallet until each call has been refused; then there is room for all."""
    rev = (await gate.store.wallets.read(["acme"]))["acme"].account_rev
    filler = Account("acme", "k_acme", gate.store.names.shard_of("acme"), rev)
    table = compile_prices({"request": 9_950_000_000_000})
    vector, facts = table.vector({"request": 1}), packb({"customer_id": "acme"})
    hold = await gate.ledger.reserve(
        filler, "filler", table, vector, vector, facts, tokens=0, ttl_ms=60_000
    )
    assert isinstance(hold, Hold)
    storm = asyncio.create_task(Storm(gate, each).run(model="dear"))
    await until(lambda: denials(gate, "credit_held") >= 2 * each)
    await gate.ledger.release(filler, "filler", facts, reserved_at_ms=hold.reserved_at_ms)
    assert statuses(await storm) == [200] * 2 * each
    assert max(arrivals.counts()) <= ATTEMPTS
    assert min(arrivals.pauses()) >= 2 - SOON_S
    events = await charged(gate)
    assert sim.provider.served.posts == len(events) == 2 * each
    assert {event.facts["retry_of"] for event in events} == {None}


async def test_409_of_one_name_runs_once_and_ends(
    gate: Gate, sim: Sim, arrivals: Arrivals, each: int
) -> None:
    """While the first runs the others get Retry-After; then they learn that it is done, and stop."""
    results = await Storm(gate, each).run("hi\nsim: tokens=3 ttft_ms=400", name="order-7")
    assert statuses(results) == [200] * 2 + [409] * (2 * each - 2), "one on each route"
    assert arrivals.counts() == {1, 2}
    assert min(arrivals.pauses()) >= 2 - SOON_S
    assert sim.provider.served.posts == len(await charged(gate)) == 2


async def test_422_is_asked_once(gate: Gate, sim: Sim, arrivals: Arrivals, each: int) -> None:
    named = {"idempotency-key": "order-7"}
    body = {"model": "small", "max_tokens": 8, "messages": [{"role": "user", "content": "other"}]}
    for path in ("/v1/chat/completions", "/v1/messages"):
        assert (await gate.post(path, body, named)).status_code == 200
    arrivals.of.clear()
    results = await Storm(gate, each).run(name="order-7")
    assert statuses(results) == [422] * 2 * each
    assert arrivals.counts() == {1}
    assert sim.provider.served.posts == len(await charged(gate)) == 2


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    with server(tmp_path_factory.mktemp("own")) as started:
        yield started
        os.kill(started.process.pid, signal.SIGCONT)


async def test_503_while_the_ledger_is_away_is_asked_again_when_told(
    tmp_path: Path, own: OwnServer, sim: Sim, arrivals: Arrivals, each: int
) -> None:
    async with running_gate(tmp_path, own.socket, sim.url, ledger_timeout_s=1.0) as gate:
        assert (await gate.chat("hi\nsim: tokens=1")).status_code == 200
        await gate.settle_all()
        arrivals.of.clear()
        os.kill(own.process.pid, signal.SIGSTOP)
        storm = asyncio.create_task(Storm(gate, each).run())
        await until(lambda: denials(gate, "ledger_unavailable") >= 2 * each)
        assert sim.provider.served.posts == 1, "the upstream hears nothing"
        os.kill(own.process.pid, signal.SIGCONT)
        assert statuses(await storm) == [200] * 2 * each
        assert max(arrivals.counts()) <= ATTEMPTS
        assert min(arrivals.pauses()) >= 1 - SOON_S
        events = await charged(gate)
        assert sim.provider.served.posts == len(events) == 2 * each + 1
        assert {event.facts["retry_of"] for event in events} == {None}, "nothing was charged twice"


async def test_503_of_the_upstream_costs_nothing_however_often(
    serve: Serve, sim: Sim, arrivals: Arrivals, each: int
) -> None:
    patient = {"base_url": sim.url, "breaker": {"enabled": False}}
    async with serve(upstreams={"sim": patient}) as gate:
        results = await Storm(gate, each).run("hi\nsim: status=503")
        assert statuses(results) == [503] * 2 * each
        assert arrivals.counts() == {ATTEMPTS}
        assert sim.provider.served.posts == 2 * each * ATTEMPTS
        assert await charged(gate) == []


async def test_a_failing_upstream_is_spared_the_storm_and_the_retries_succeed_once_it_is_back(
    serve: Serve, sim: Sim, arrivals: Arrivals, each: int
) -> None:
    quick = {"base_url": sim.url, "breaker": {"open_ms": 200}}
    async with serve(upstreams={"sim": quick}) as gate:
        for _ in range(5):
            answer = await gate.chat("hi\nsim: status=503")
            assert answer.headers["x-error-source"] == "upstream"
        arrivals.of.clear()
        results = await Storm(gate, each).run()
        assert statuses(results) == [200] * 2 * each, "one second later, as Retry-After says"
        assert min(arrivals.pauses()) >= 1 - SOON_S
        assert sim.provider.served.posts == 5 + len(await charged(gate)) == 5 + 2 * each


async def test_clients_that_lose_patience_are_charged_for_each_attempt_and_each_is_marked(
    gate: Gate, sim: Sim, arrivals: Arrivals, each: int
) -> None:
    results = await Storm(gate, each, timeout=0.6).run("hi\nsim: tokens=3 ttft_ms=1500")
    assert all(isinstance(r, openai.APITimeoutError | anthropic.APITimeoutError) for r in results)
    events = await charged(gate)
    assert max(arrivals.counts()) == ATTEMPTS, "fewer where one was lost on its way here"
    assert 2 * each < sim.provider.served.posts == len(events) <= 2 * each * ATTEMPTS
    marked = {event.facts["request_id"]: event.facts["retry_of"] for event in events}
    firsts = [request_id for request_id, earlier in marked.items() if earlier is None]
    assert len(firsts) == 2 * each, "one of each call is its first"
    named = [earlier for earlier in marked.values() if earlier is not None]
    assert sorted(named) == sorted(set(named)), "each is the earlier one of one"
    assert set(named) <= set(marked)
