"""One contender's run: a separate Valkey and provider, warm-up, load, ground truth, CPU."""

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import redis
import uvloop

from loadtest import children
from loadtest.accuracy.contenders import Charge, Contender, Replicas
from loadtest.accuracy.scenario import WARM, Scenario
from loadtest.accuracy.streams import Callers, TenantLoad
from loadtest.measure import cpu_s, machine_busy_s, redis_cost

SETTLED_WITHIN_S: Final = 15.0
_WARM_CALLERS: Final = 48
_TELL_EVERY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class TenantOutcome:
    """What a tenant was served and charged, and what its callers saw. Input and output tokens together.

    budget:     what it may spend
    charged:    what the gate charged
    held:       what it still holds after the end: nothing, or it leaks
    served:     what the provider wrote to its sockets
    delivered:  what reached the callers
    load:       what the callers saw
    """

    tenant: str
    repetition: int
    budget: int
    charged: int
    held: int
    served: int
    delivered: int
    load: TenantLoad

    @property
    def over_charged(self) -> int:
        """Tokens charged beyond the budget."""
        return max(0, self.charged - self.budget)

    @property
    def over_served(self) -> int:
        """Tokens served beyond the budget; negative below it."""
        return self.served - self.budget

    @property
    def usable(self) -> float:
        """Share of the budget that reached the callers and was charged."""
        return min(self.charged, self.delivered, self.budget) / self.budget

    @property
    def refusals(self) -> int:
        """Requests refused for a while: the last one of each caller, for good, is not counted."""
        return self.load.refusals.total() - self.load.terminal


@dataclass(frozen=True, slots=True)
class Outcome:
    """One contender in one repetition.

    cpu_s:          of the gates' serving processes; `other_cpu_s` of their other ones
    redis_cpu_s:    of the ledger's server
    foreign_share:  CPU of programs outside the measurement, as a share of one core
    drifts:         what the contender's own audit finds wrong
    """

    contender: str
    tenants: list[TenantOutcome]
    cpu_s: float
    other_cpu_s: float
    redis_cpu_s: float
    provider_cpu_s: float
    foreign_share: float
    drifts: list[str] = field(default_factory=list)


def run(
    contender: Contender,
    scenario: Scenario,
    repetition: int,
    on_progress: Callable[[int], None] = lambda _tokens: None,
) -> Outcome:
    """Run one contender. `on_progress` receives output tokens as they arrive. Raises LoadFailed."""
    with tempfile.TemporaryDirectory(prefix="accuracy-") as name:
        folder = Path(name)
        with children.provider() as provider, children.valkey(folder) as valkey:
            start = contender.running(scenario, provider.url, valkey.socket, folder)
            with start as replicas, redis.Redis(unix_socket_path=str(valkey.socket)) as client:
                if scenario.warm_requests:
                    uvloop.run(_warm(scenario, replicas))
                httpx.delete(f"{provider.url}/_served", trust_env=False).raise_for_status()
                pids = replicas.pids()
                groups = [*pids.values(), [provider.pid]]
                ours = [os.getpid(), valkey.pid, *(pid for group in groups for pid in group)]
                before = [cpu_s(group) for group in groups]
                spent, known, busy = redis_cost(client), cpu_s(ours), machine_busy_s()
                began_s = time.monotonic()
                loads = uvloop.run(_load(scenario, replicas, repetition, on_progress))
                seconds = time.monotonic() - began_s
                charges = _settled(replicas)
                after = [cpu_s(group) for group in groups]
                foreign = (machine_busy_s() - busy) - (cpu_s(ours) - known)
                used = dict(zip([*pids, "provider"], map(_minus, after, before), strict=True))
                redis_s = redis_cost(client).since(spent).cpu_s
                rows = _served(provider.url)
            drifts = contender.verify(folder)
    tenants = [
        TenantOutcome(
            tenant=tenant,
            repetition=repetition,
            budget=scenario.budget,
            charged=charges[tenant].charged,
            held=charges[tenant].held,
            served=rows[tenant]["input"] + rows[tenant]["output"],
            # the provider has processed the input of each admitted stream
            delivered=rows[tenant]["input"] + loads[tenant].delivered,
            load=loads[tenant],
        )
        for tenant in scenario.names
    ]
    return Outcome(
        contender=contender.name,
        tenants=tenants,
        cpu_s=used["gate"],
        other_cpu_s=used.get("other", 0.0),
        redis_cpu_s=redis_s,
        provider_cpu_s=used["provider"],
        foreign_share=max(0.0, foreign / seconds),
        drifts=drifts,
    )


def _minus(after: float, before: float) -> float:
    return after - before


async def _warm(scenario: Scenario, replicas: Replicas) -> None:
    lengths = scenario.lengths(WARM, 0)
    count = scenario.warm_requests
    callers = min(count, _WARM_CALLERS)
    await Callers(scenario, WARM, replicas, lengths, callers=callers, requests=count).run()


async def _load(
    scenario: Scenario, replicas: Replicas, repetition: int, on_progress: Callable[[int], None]
) -> dict[str, TenantLoad]:
    arrived = 0

    def count(tokens: int) -> None:
        nonlocal arrived
        arrived += tokens

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            on_progress(arrived)

    telling = asyncio.ensure_future(tell())
    tenants = [
        Callers(scenario, name, replicas, scenario.lengths(name, repetition), on_token=count)
        for name in scenario.names
    ]
    try:
        loads = await asyncio.gather(*(tenant.run() for tenant in tenants))
    finally:
        telling.cancel()
    return dict(zip(scenario.names, loads, strict=True))


def _settled(replicas: Replicas) -> Mapping[str, Charge]:
    """The charges once nothing is held any more, or what they are after a while."""
    deadline_s = time.monotonic() + SETTLED_WITHIN_S
    while True:
        charges = replicas.charges()
        if not any(c.held for c in charges.values()) or time.monotonic() > deadline_s:
            return charges
        time.sleep(0.05)


def _served(url: str) -> dict[str, Counter[str]]:
    """Input and output tokens that the provider served, by tenant."""
    answer = httpx.get(f"{url}/_served", trust_env=False, timeout=30).raise_for_status()
    rows: Sequence[dict[str, Any]] = answer.json()["rows"]
    sums: dict[str, Counter[str]] = {}
    for row in _of_tenants(rows):
        sums.setdefault(row["tag"], Counter()).update(input=row["input"], output=row["output"])
    return sums


def _of_tenants(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (row for row in rows if row["tag"] != WARM)
