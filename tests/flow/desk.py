"""Reservations without HTTP: real scripts on a real server, a journal in a temporary folder.

`Desk` makes runs as the flow does; its ledger can be told to fail.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
from msgpack import packb

from gateway.dialects.base import ForwardOptions, RequestFacts
from gateway.domain.delivery import START
from gateway.domain.events import Event
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Account, Hold, Settled
from gateway.flow.catalog import Model
from gateway.flow.estimate import bound_request
from gateway.flow.headers import Forwarding
from gateway.flow.reservation.delivery import Settlements
from gateway.flow.reservation.run import Run
from gateway.http.interface import Answer, Headers
from gateway.ledger.accounts import AccountStore, RedisRunner
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.scripts import Script
from gateway.ledger.journal import SettleJournal
from gateway.settings.policy import PRESETS, PolicySection
from gateway.telemetry.metrics import Counter
from tests.support.bank import Bank
from tests.support.loose_ledger import LooseLedger


class Unasked:
    """An upstream that no test here asks."""

    name = "sim"

    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """Never called."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""


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
        self.set_aside = Counter()
        self.settlements = Settlements(
            self.ledger.reservations,
            self.journal,
            lambda _, settled: self.observed.append(settled),
            self.set_aside,
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
    ) -> Run:
        """A reservation as the flow makes it; `policy` as in a configuration, over `balanced`."""
        knobs = PolicySection(**policy).resolve(PRESETS["balanced"]).flow()
        model = self.model(
            hidden_output=hidden_output,
            prices=compile_prices(prices) if prices else self.bank.prices,
        )
        facts = RequestFacts("m", stream, input_bound, None)
        bound = bound_request(facts, model, knobs)
        self._runs += 1
        event = {"request_id": f"r{self._runs}", "customer_id": "acme"}
        hold = await self.ledger.reserve(
            self.account,
            f"r{self._runs}",
            model.prices,
            model.prices.vector(bound.held_usage(model)),
            model.prices.vector({"input": bound.input_count}),
            packb(event),
            tokens=bound.tokens,
            ttl_ms=knobs.hold_ttl_ms,
        )
        assert isinstance(hold, Hold), hold
        return Run(
            self.settlements, self.account, model, knobs, bound, hold, event, 0.0, stream=stream
        )

    async def events(self) -> list[Event]:
        """The customer's usage events, after all tasks have ended."""
        await self.settlements.drain(10)
        shard = self.account.shard
        tails = await self.bank.outbox.read({shard: START}, limit=10_000)
        return [
            entry
            for _, entries in tails
            for entry in entries
            if isinstance(entry, Event) and entry.reservation_id is not None
        ]

    async def end(self, run: Run) -> Event:
        """Resolve a run and give its one event; nothing is held after it."""
        run.resolve()
        events = [e for e in await self.events() if e.reservation_id == run.hold.reservation_id]
        assert len(events) == 1, events
        assert await self.held_nano() == 0
        return events[0]

    async def held_nano(self) -> int:
        """What the wallet holds."""
        return (await self.store.wallets(["acme"]))["acme"].held_nano
