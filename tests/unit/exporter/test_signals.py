"""Alerts from the store to a real receiver that fails, hangs, and gets them again."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from aiohttp import web

from gateway.domain.delivery import Place
from gateway.domain.events import Event
from gateway.domain.signals import Signal
from gateway.exporter.signals import Courier, Webhook
from gateway.exporter.signing import sign
from gateway.exporter.sinks.options import SinkOptions, SqliteOptions
from gateway.exporter.sinks.registry import build_access, build_schedule, build_store
from loadtest.sinks.postgres_server import PostgresServer
from tests.unit.exporter.sinks.contract import batch_of

KEY = b"the-secret-of-this-test"


class Receiver:
    """A local HTTP server; `answers` says what it does with each request, then 204."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int | float] = []
        """A status, or how many seconds it takes to answer."""
        self.by_customer: dict[str, int] = {}
        """Customers whose signals it always refuses, and how."""
        self.url = ""

    @property
    def ids(self) -> list[str]:
        return [headers["idempotency-key"] for headers, _ in self.requests]

    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(body) for _, body in self.requests]

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((headers, body))
        refused = self.by_customer.get(orjson.loads(body)["subject"])
        if refused:
            return web.Response(status=refused)
        answer = self.answers.pop(0) if self.answers else 204
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return web.Response(status=204)
        location = {"location": self.url} if 300 <= answer < 400 else {}
        return web.Response(status=answer, headers=location)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (address,) = runner.addresses
    made.url = f"http://127.0.0.1:{address[1]}/hook"
    yield made
    await runner.cleanup()


class Shop:
    """A store that signals are written to, and a courier."""

    def __init__(self, options: SinkOptions, receiver: Receiver) -> None:
        self.options = options
        self.sink = build_store(options)
        self.receiver = receiver
        self.seq = 0
        self.late_ms = 0
        """How far the courier's clock is ahead."""

    async def write(self, *signals: Signal, customer_id: str = "acme") -> Event:
        event = Event(
            kind="settle",
            event_id=f"r{self.seq}:settled",
            shard=0,
            epoch=1,
            seq=self.seq,
            occurred_at_ms=1_700_000_000_123,
            customer_id=customer_id,
            amount_nano=7,
            balance_nano=4_000_000_000,
            signals=signals,
        )
        self.seq += 1
        await self.store(event)
        return event

    async def store(self, event: Event) -> None:
        await self.sink.write(batch_of([event], {0: Place(event.epoch, event.seq)}))

    @asynccontextmanager
    async def courier(self, **options: Any) -> AsyncIterator[Courier]:
        quick: dict[str, Any] = {"backoff_ms": 1, "backoff_max_ms": 4, "poll_ms": 5} | options
        made = Courier(
            build_schedule(self.options),
            Webhook(self.receiver.url, (KEY,), **quick),
            clock_ms=lambda: int(time.time() * 1000) + self.late_ms,
        )
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            made.stop()
            await task

    def states(self) -> list[tuple[str, str, int]]:
        with build_access(self.options).open() as store:
            return [(s.signal_id, s.state, s.attempts) for s in store.signals()]

    def count(self, state: str) -> int:
        return sum(found == state for _, found, _ in self.states())


@pytest.fixture(params=["sqlite", "postgres"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> SinkOptions:
    """A store of each kind that keeps a schedule, not there yet."""
    if request.param == "sqlite":
        return SqliteOptions(tmp_path / "deep" / "events.db")
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.fresh()


@pytest.fixture
async def shop(options: SinkOptions, receiver: Receiver) -> AsyncIterator[Shop]:
    made = Shop(options, receiver)
    await made.sink.open()
    yield made
    await made.sink.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what it waits for is in a file
            await asyncio.sleep(0.005)


LOW = Signal("low_balance", {"threshold_nano": 5_000_000_000})
EMPTY = Signal("exhausted", {"threshold_nano": 0})


async def test_a_signal_arrives_signed_over_its_id_its_time_and_its_body(shop: Shop) -> None:
    event = await shop.write(LOW)
    async with shop.courier(source="shop"):
        await until(lambda: shop.count("delivered") == 1)
    ((headers, body),) = shop.receiver.requests
    signal_id = LOW.id(event.event_id)
    assert headers["idempotency-key"] == headers["webhook-id"] == signal_id
    sent_at = int(headers["webhook-timestamp"])
    assert headers["webhook-signature"] == sign([KEY], signal_id, sent_at, body)
    assert headers["content-type"] == "application/cloudevents+json"
    told = orjson.loads(body)
    assert (told["id"], told["type"], told["source"]) == (
        signal_id,
        "creditgate.low_balance",
        "shop",
    )
    assert told["time"] == "2023-11-14T22:13:20.123Z"
    assert told["data"]["threshold"] == "5"


@pytest.mark.parametrize("answer", [500, 429, 404, 302])
async def test_what_is_not_taken_is_sent_again_with_the_same_id_and_body(
    shop: Shop, answer: int
) -> None:
    await shop.write(LOW)
    shop.receiver.answers = [answer, answer]
    async with shop.courier() as courier:
        await until(lambda: shop.count("delivered") == 1)
    assert len(shop.receiver.requests) == 3
    assert len(set(shop.receiver.ids)) == 1
    assert len({body for _, body in shop.receiver.requests}) == 1
    assert courier.tally.signals_failed == 2


async def test_an_answer_that_comes_too_late_is_none(shop: Shop) -> None:
    await shop.write(LOW)
    shop.receiver.answers = [2.0]
    async with shop.courier(timeout_ms=50):
        await until(lambda: shop.count("delivered") == 1)
    assert len(shop.receiver.requests) == 2


async def test_a_receiver_that_is_not_there_is_waited_for(shop: Shop) -> None:
    await shop.write(LOW)
    url, shop.receiver.url = shop.receiver.url, "http://127.0.0.1:1/hook"
    async with shop.courier() as courier:
        await until(lambda: courier.tally.signals_failed >= 2)
    assert shop.count("waiting") == 1
    shop.receiver.url = url
    async with shop.courier():
        await until(lambda: shop.count("delivered") == 1)


async def test_an_entry_that_is_exported_twice_is_signalled_once(shop: Shop) -> None:
    event = await shop.write(LOW)
    await shop.store(event)
    async with shop.courier():
        await until(lambda: shop.count("delivered") == 1)
        await shop.store(event)
        await asyncio.sleep(0.05)
    assert len(shop.receiver.requests) == 1


async def test_one_customers_signals_keep_their_order_and_hold_up_nobody_else(shop: Shop) -> None:
    await shop.write(LOW)
    await shop.write(EMPTY)
    await shop.write(LOW, customer_id="other")
    shop.receiver.by_customer["acme"] = 503
    async with shop.courier():
        await until(lambda: shop.count("delivered") == 1)
        await until(lambda: len(shop.receiver.requests) > 3)
        kinds = {told["type"] for told in shop.receiver.events() if told["subject"] == "acme"}
        assert kinds == {"creditgate.low_balance"}
        shop.receiver.by_customer.clear()
        await until(lambda: shop.count("delivered") == 3)
    assert shop.receiver.events()[-1]["type"] == "creditgate.exhausted"


async def test_what_waits_too_long_is_dead_and_can_be_sent_again(shop: Shop) -> None:
    event = await shop.write(LOW)
    shop.receiver.by_customer["acme"] = 500
    async with shop.courier() as courier:
        await until(lambda: courier.tally.signals_failed > 0)
        shop.late_ms = 4 * 86_400_000
        await until(lambda: courier.tally.signals_dead == 1)
        assert shop.count("dead") == 1
    with build_access(shop.options).open() as store:
        assert [signal.reason for signal in store.signals(state="dead")] == ["answered 500"]
    shop.late_ms = 0
    shop.receiver.by_customer.clear()
    schedule = build_schedule(shop.options)
    now_ms = time.time_ns() // 1_000_000
    assert schedule.resend(LOW.id(event.event_id), now_ms)
    assert not schedule.resend("sig_unknown", now_ms)
    async with shop.courier():
        await until(lambda: shop.count("delivered") == 1)


async def test_a_signal_from_before_anybody_listened_is_not_sent(shop: Shop) -> None:
    await shop.write(LOW)
    shop.late_ms = 4 * 86_400_000
    async with shop.courier():
        await until(lambda: shop.count("dead") == 1)
    assert shop.receiver.requests == []


async def test_a_courier_that_dies_before_it_notes_the_delivery_sends_again(shop: Shop) -> None:
    await shop.write(LOW)
    shop.receiver.answers = [0.2]
    task = asyncio.create_task(
        Courier(build_schedule(shop.options), Webhook(shop.receiver.url, (KEY,), poll_ms=5)).run()
    )
    await until(lambda: len(shop.receiver.requests) == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert shop.count("waiting") == 1
    async with shop.courier():
        await until(lambda: shop.count("delivered") == 1)
    assert len(shop.receiver.ids) == 2
    assert len(set(shop.receiver.ids)) == 1


async def test_the_courier_waits_for_a_store_that_is_not_there_yet(
    options: SinkOptions, receiver: Receiver
) -> None:
    shop = Shop(options, receiver)
    async with shop.courier():
        await asyncio.sleep(0.02)
        await shop.sink.open()
        await shop.write(LOW)
        await until(lambda: len(receiver.requests) == 1)
        await until(lambda: shop.count("delivered") == 1)
    await shop.sink.close()


async def test_of_two_couriers_each_attempt_is_made_by_one(
    postgres_server: PostgresServer, receiver: Receiver
) -> None:
    shop = Shop(postgres_server.fresh(), receiver)
    await shop.sink.open()
    for number in range(20):
        await shop.write(LOW, EMPTY, customer_id=f"c{number}")
    receiver.answers = [0.01] * 40
    async with shop.courier() as one, shop.courier() as other:
        await until(lambda: shop.count("delivered") == 40)
    assert sorted(receiver.ids) == sorted(signal_id for signal_id, _, _ in shop.states())
    delivered = one.tally.signals_delivered, other.tally.signals_delivered
    assert sum(delivered) == 40
    assert min(delivered) > 0
    for number in range(20):
        mine = [said["type"] for said in receiver.events() if said["subject"] == f"c{number}"]
        assert mine == ["creditgate.low_balance", "creditgate.exhausted"]
    await shop.sink.close()


async def test_what_a_dead_courier_was_attempting_is_attempted_by_another(
    postgres_server: PostgresServer, receiver: Receiver
) -> None:
    shop = Shop(postgres_server.fresh(), receiver)
    await shop.sink.open()
    await shop.write(LOW)
    dying, living = build_schedule(shop.options), build_schedule(shop.options)
    now_ms = time.time_ns() // 1_000_000
    assert len(dying.find_due(now_ms, 0, 8).due) == 1
    passed_over = living.find_due(now_ms, 0, 8)
    assert (list(passed_over.due), passed_over.count) == ([], 1)
    dying.close()
    assert len(living.find_due(now_ms, 0, 8).due) == 1
    living.close()
    await shop.sink.close()


async def test_the_secret_and_the_url_are_in_no_log_line_and_no_repr(shop: Shop) -> None:
    await shop.write(LOW)
    shop.receiver.url = "http://127.0.0.1:1/token-in-the-path"
    lines = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(lines))
    try:
        async with shop.courier() as courier:
            await until(lambda: courier.tally.signals_failed > 0)
    finally:
        structlog.reset_defaults()
    shown = lines.getvalue() + repr(Webhook(shop.receiver.url, (KEY,)))
    assert "signal_not_taken" in shown
    assert "token-in-the-path" not in shown
    assert KEY.decode() not in shown
