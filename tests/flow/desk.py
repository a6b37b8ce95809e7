"""Reservations without HTTP: real scripts on a real server, a journal in a temporary folder.

`Desk` opens reservations as the flow does; its ledger can be told to fail.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis.asyncio

from gateway.dialects import DIALECTS
from gateway.dialects.base import AnswerFacts, Asked, ForwardOptions, ReadOptions, RequestFacts
from gateway.domain.delivery import START
from gateway.domain.events import Event
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Account, Settled
from gateway.domain.usage_facts import UsageFacts
from gateway.flow.admission import Admission
from gateway.flow.catalog import Catalog, Model, Route
from gateway.flow.context import RequestContext
from gateway.flow.estimate import estimate_request
from gateway.flow.expected_output import ExpectedOutput
from gateway.flow.headers import Forwarding
from gateway.flow.plan import Plan
from gateway.flow.reservation.delivery import Delivery
from gateway.flow.reservation.growing import GrowthServices
from gateway.flow.reservation.live import LiveReservations
from gateway.flow.reservation.reservation import Reservation, ReservationServices
from gateway.flow.retries import Retries
from gateway.flow.shadow_hold import ShadowHold
from gateway.flow.shard_outages import ShardOutages
from gateway.http.interface import Breaker, Exchange, RequestHead, UpstreamResponse
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import Script
from gateway.ledger.journal import SettleJournal
from gateway.settings.policy import PRESETS, PolicySection
from gateway.telemetry.metrics import Counter
from gateway.telemetry.names import GateMetrics
from tests.support.bank import Bank
from tests.support.loose_ledger import LooseLedger
from tests.support.outbox_entries import read_entries


class Unasked:
    """An upstream that no test here asks."""

    name = "sim"
    breaker = Breaker()

    async def send(
        self, method: str, target: str, fields: bytes, body: bytes, *, owner: str = ""
    ) -> UpstreamResponse:
        """Never called."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""


class Silent(Exchange):
    """A client of which nothing is asked."""

    def __init__(self) -> None:
        self.head = RequestHead("POST", "/v1/x", "")
        self.method, self.path, self.query = "POST", "/v1/x", ""
        self.also = b""
        self.status = 0

    async def read_body(self, limit_bytes: int) -> bytes:
        raise NotImplementedError

    async def start(
        self, status: int, fields: bytes, length: int | None, *, more: bool = False
    ) -> None:
        raise NotImplementedError

    async def write(self, data: bytes, *, more: bool = False) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    def client_gone(self) -> bool:
        return False

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Nobody goes."""


class Failing:
    """A runner that raises what stands in `faults` first, by the script's name, then works."""

    def __init__(self, runner: RedisRunner) -> None:
        self._runner = runner
        self.down = False
        self.faults: dict[str, list[Exception]] = {}
        self.calls: list[str] = []

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        """See `Runner`."""
        self.calls.append(script.name)
        if self.down:
            raise LedgerUnavailable("down for this test")
        waiting = self.faults.get(script.name)
        if waiting:
            raise waiting.pop(0)
        return await self._runner.run(script, keys, args)


class Desk:
    """A customer with credit, and runs in its name."""

    def __init__(self, client: redis.asyncio.Redis, folder: Path) -> None:
        self.bank = Bank(client)
        self.wire = Failing(RedisRunner(client))
        self.ledger = LooseLedger(self.wire, shard_count=self.bank.shards)
        self.journal = SettleJournal(folder / "journal")
        self.observed: list[Settled] = []
        self.observe: Callable[[Reservation, Settled], None] = self._note
        self.set_aside = Counter()
        self.delivery = Delivery(self.ledger.reservations, self.journal, self.set_aside)
        self.live = LiveReservations()
        self.keys_killed: set[str] = set()
        self.expected = ExpectedOutput()
        self.retries = Retries(lambda _: None)
        self.outages = ShardOutages(GateMetrics().shard_shut_seconds, "worker-0")
        self.admission = Admission(self.ledger.reservations, self.delivery, self.outages)
        self.services = ReservationServices(
            self.admission.reserve,
            self._shadow,
            self.delivery,
            GrowthServices(self.ledger.reservations, self._key_killed, self.delivery.spawn),
            self.expected,
            self.retries,
            self.live,
            lambda reservation, settled: self.observe(reservation, settled),
            lambda _: None,
        )
        self.store = AccountStore(client, shard_count=self.bank.shards)
        self.account: Account
        self._runs = 0

    async def open(self) -> "Desk":
        """Make the customer, with 10 credits."""
        self.account = await self.bank.open("acme")
        return self

    def model(self, **changes: Any) -> Model:
        """A model at the bank's prices."""
        given: dict[str, Any] = {
            "name": "m",
            "upstream": Unasked(),
            "forwarding": Forwarding(),
            "forward": ForwardOptions("m"),
            "prices": self.bank.prices,
            "max_output_tokens": 1000,
            "context_tokens": None,
            "hidden_output": False,
        }
        return Model(**{**given, **changes})

    async def run(
        self,
        *,
        stream: bool = True,
        input_bound: int = 40,
        hidden_output: bool = False,
        prices: dict[str, int] | None = None,
        **policy: Any,
    ) -> Reservation:
        """A reservation as the flow makes it; `policy` as in a configuration, over `balanced`."""
        knobs = PolicySection(**policy).resolve(PRESETS["balanced"]).flow()
        model = self.model(
            hidden_output=hidden_output,
            prices=compile_prices(prices) if prices else self.bank.prices,
        )
        self._runs += 1
        route = Route("/v1/x", frozenset({"POST"}), DIALECTS["openai_chat"], ReadOptions(), knobs)
        context = RequestContext(Silent(), route.dialect)
        context.route, context.account = route, self.account
        context.request_id = f"r{self._runs}"
        context.started_at = 0.0
        context.asked = Asked("POST", "/v1/x", "", (), b"{}")
        context.facts = RequestFacts("m", stream, input_bound, None)
        context.plan = Plan(self.catalog(model), self.account, route, model)
        context.estimate = estimate_request(context.facts, model, knobs)
        context.event = UsageFacts(context.request_id)
        reservation = await Reservation(self.services, context, None).__aenter__()
        reservation.facts = AnswerFacts()  # as a meter brings them
        return reservation

    def catalog(self, model: Model) -> Catalog:
        """A configuration with one model and no routes."""
        return Catalog({}, {model.name: model}, DIALECTS["generic"], max_body_bytes=1_000_000)

    async def _shadow(self, _: RequestContext) -> ShadowHold:
        raise NotImplementedError

    async def _key_killed(self, key_id: str) -> bool:
        return key_id in self.keys_killed

    def _note(self, _: Reservation, settled: Settled) -> None:
        self.observed.append(settled)

    async def events(self) -> list[Event]:
        """The customer's usage events, after all tasks have ended."""
        await self.delivery.drain(10)
        shard = self.account.shard
        tails = await read_entries(self.bank.outbox, {shard: START}, limit=10_000)
        return [
            entry
            for _, entries in tails
            for entry in entries
            if isinstance(entry, Event) and entry.reservation_id is not None
        ]

    async def end(self, run: Reservation) -> Event:
        """Resolve a run and give its one event; nothing is held after it."""
        run.resolve()
        events = [e for e in await self.events() if e.reservation_id == run.hold.reservation_id]
        assert len(events) == 1, events
        assert await self.held_nano() == 0
        return events[0]

    async def held_nano(self) -> int:
        """What the wallet holds."""
        return (await self.store.wallets.read(["acme"]))["acme"].held_nano
