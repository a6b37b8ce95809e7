"""Reserves and settles through the gate's own client: what they cost both sides, and how long a reserve takes.

Callers are counted per primary, so that each server gets the same number of commands at once on a
ledger of any size.
"""

import asyncio
import random
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from gateway.ledger.client.scripts import Runner, Script
from gateway.ledger.client.servers import HotRunner, locate, open_runner
from gateway.ledger.shards import Shards
from loadtest.generator import percentile
from loadtest.ledger_cost import Pairs, tiered_prices
from loadtest.scale.servers import Ledger, accounts

_TIMEOUT_S: Final = 60.0
_CATCH_UP_S: Final = 0.05
"""For replicas to have the last writes of a sample."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of account and price.

    grants:     of each customer
    everything: three scopes with two windows each, and three tiers
    """

    name: str
    grants: int
    everything: bool


PLAIN: Final = Kind("plain wallet", 1, everything=False)
FULL: Final = Kind("everything on", 2, everything=True)
KINDS: Final = (PLAIN, FULL)


@dataclass(frozen=True, slots=True)
class PairSample:
    """One sample of a ledger; CPU in µs for a pair.

    redis_us:    of all primaries together
    highest_us:  of the primary whose pairs cost it the most
    replicas_us: of all replicas together
    client_us:   of this process
    together:    commands that a primary found in one read
    """

    per_second: float
    redis_us: float
    highest_us: float
    replicas_us: float
    client_us: float
    together: float


@dataclass(frozen=True, slots=True)
class Paced:
    """How long reserves took at a paced rate, and the CPU of all primaries for a pair."""

    p50_ms: float
    p99_ms: float
    redis_us: float


class Stopwatch:
    """A runner that notes how long each reserve took."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.took_s = array("d")

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        """See `Runner`."""
        began_s = time.perf_counter()
        reply = await self._runner.run(script, keys, args)
        if script.name == "reserve":
            self.took_s.append(time.perf_counter() - began_s)
        return reply


def pairs_of(runner: Runner, kind: Kind, prefix: str) -> Pairs:
    """Pairs of customers of whom each shard has one. prefix: of the requests' ids"""
    return Pairs(
        Shards(runner),
        prefix,
        (),
        kind.grants,
        tiered_prices() if kind.everything else None,
        accounts(windows=kind.everything),
    )


class Client:
    """The gate's client of a ledger. Use it from one event loop, within `async with`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._runner: HotRunner = open_runner(
            locate(ledger.url), name="scale", timeout_s=_TIMEOUT_S
        )
        self._watch = Stopwatch(self._runner)
        self._numbers = count()

    async def __aenter__(self) -> "Client":
        await self._runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.close()

    async def prepared(self, kind: Kind) -> Pairs:
        """Empty the ledger and make the customers of a kind."""
        self.ledger.empty()
        pairs = pairs_of(self._watch, kind, f"s{next(self._numbers)}-")
        await pairs.prepare()
        return pairs

    async def sample(self, pairs: Pairs, callers: int, amount: int) -> PairSample:
        """So many pairs, with so many callers for each primary."""
        callers *= len(self.ledger.primaries)
        each = max(1, amount // callers)

        async def caller() -> None:
            for _ in range(each):
                await pairs.one()

        before, own_s, began_s = self.ledger.spent(), time.process_time(), time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        took_s, own_s = time.perf_counter() - began_s, time.process_time() - own_s
        await asyncio.sleep(_CATCH_UP_S)
        spent, done = self.ledger.spent().since(before), each * callers
        return PairSample(
            per_second=done / took_s,
            redis_us=sum(spent.primaries_s) * 1e6 / done,
            highest_us=max(
                used_s * 1e6 / (done * share)
                for used_s, share in zip(spent.primaries_s, shares(self.ledger), strict=True)
            ),
            replicas_us=spent.replicas_s * 1e6 / done,
            client_us=own_s * 1e6 / done,
            together=2 * done / max(1, spent.reads),
        )

    async def paced(self, pairs: Pairs, rate: float, seconds: float) -> Paced:
        """At so many pairs a second for each primary, at random moments. The same moments each time."""
        rate *= len(self.ledger.primaries)
        self._watch.took_s = took_s = array("d")
        draw = random.Random(1)
        before = self.ledger.spent()
        due_s = began_s = time.perf_counter()
        async with asyncio.TaskGroup() as running:
            while (due_s := due_s + draw.expovariate(rate)) < began_s + seconds:
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                running.create_task(pairs.one())
        spent = self.ledger.spent().since(before)
        return Paced(
            p50_ms=percentile(took_s, 0.5) * 1e3,
            p99_ms=percentile(took_s, 0.99) * 1e3,
            redis_us=sum(spent.primaries_s) * 1e6 / max(1, len(took_s)),
        )


def shares(ledger: Ledger) -> list[float]:
    """The share of all shards that each primary has."""
    owners = [ledger.owner(account.shard) for account in accounts(windows=False)]
    return [owners.count(number) / len(owners) for number in range(len(ledger.primaries))]
