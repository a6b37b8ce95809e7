"""Plays the steps of a scenario on a gate under load."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest import chaos, provider
from loadtest import gate as gates
from loadtest.failover.checks import Checked, Span, check
from loadtest.failover.load import Traffic, now_s
from loadtest.generator import Result
from loadtest.ports import free_ports
from loadtest.provider import Provider

CUSTOMERS: Final = 8
CALM_S: Final = 1.0
"""Load before and after each step, so that the store catches up and each has a beginning."""
WHOLE_WITHIN_S: Final = 90.0
_LOOK_EVERY_S: Final = 0.1


class NotServed(Exception):
    """The gate did not serve everybody again, or was restarted. The message says what it says of itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to the servers. Both block.

    act:   returns when it has happened and they are a ledger again
    ready: returns when `act` may begin
    """

    title: str
    act: Callable[[], object]
    ready: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Played:
    """One step.

    change_s:       until the servers were a ledger again
    whole_s:        until every customer was admitted after that, and no shard was shut
    nobody_s:       the longest time in which nobody was admitted
    somebody_not_s: the longest time in which some customer was not
    refused:        requests refused with 503
    repaired:       shards that had lost entries
    """

    title: str
    change_s: float
    whole_s: float
    nobody_s: float
    somebody_not_s: float
    refused: int
    repaired: frozenset[str]


@dataclass(frozen=True, slots=True)
class Run:
    """A scenario that was played to its end."""

    played: list[Played]
    checked: Checked
    result: Result


async def play(
    folder: Path,
    redis: Mapping[str, Any],
    steps: Sequence[Step],
    *,
    rate: float,
    console: Console,
) -> Run:
    """Start a gate on a ledger, play, stop it and check. Raises NotServed, NotRecovered, GateFailed.

    redis: the section of the gate's configuration
    rate:  requests a second
    """
    keys = [f"sk-failover-{number}" for number in range(CUSTOMERS)]
    [admin_port] = free_ports(1)
    async with provider.running(simulated := Provider()) as upstream_url:
        config = gates.write_config(
            folder,
            upstream_url,
            workers=2,
            keys=keys,
            policy={"hold_ttl_ms": 20_000, "checkpoint_interval_ms": 1000},
            changes={"redis": dict(redis), "admin": {"host": "127.0.0.1", "port": admin_port}},
        )
        async with _serving(config) as gate:
            traffic = Traffic(gate.url, keys, rate=rate)
            stage = _Stage(gate, f"http://127.0.0.1:{admin_port}", traffic)
            looking = asyncio.create_task(stage.look())
            try:
                spans = await stage.play(steps, console)
                result = await traffic.stop()
                await chaos.holds_ended(gate.url, keys, WHOLE_WITHIN_S)
                await stage.opened()
            finally:
                looking.cancel()
                await asyncio.wait([looking])
    report = chaos.ChaosReport([], result, list(simulated.served.rows), 0, 0.0)
    return Run(stage.played(spans), await check(config, report, spans), result)


@contextlib.asynccontextmanager
async def _serving(config: Path) -> AsyncIterator[gates.Gate]:
    serving = gates.serving(config)
    gate = await asyncio.to_thread(serving.__enter__)
    try:
        yield gate
    finally:
        await asyncio.to_thread(serving.__exit__, None, None, None)


class _Stage:
    """A gate under load."""

    def __init__(self, gate: gates.Gate, admin_url: str, traffic: Traffic) -> None:
        self._gate = gate
        self._admin = httpx.AsyncClient(base_url=admin_url, trust_env=False)
        self._traffic = traffic
        self._shut: frozenset[str] | None = None
        """As last seen; None while the gate cannot say."""
        self._whole_s: list[float] = []
        self._repaired: list[set[str]] = [set()]

    async def play(self, steps: Sequence[Step], console: Console) -> list[Span]:
        """All steps in order; from when to when each was played. Raises NotServed."""
        processes = self._named()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        spans = []
        with Progress(*columns, console=console, transient=True) as progress:
            shown = progress.add_task("load", total=len(steps))
            self._traffic.start()
            for step in steps:
                progress.update(shown, description=step.title)
                await asyncio.to_thread(step.ready)
                await asyncio.sleep(CALM_S)
                began_s = now_s()
                self._repaired.append(set())
                await asyncio.to_thread(step.act)
                spans.append(Span(step.title, began_s, now_s()))
                await self._served(step.title, spans[-1].ended_s)
                self._whole_s.append(now_s() - began_s)
                progress.advance(shown)
            await asyncio.sleep(CALM_S)
        if self._named() != processes:
            raise NotServed(f"processes were replaced: {processes} → {self._named()}")
        return spans

    def played(self, spans: Sequence[Span]) -> list[Played]:
        """What each step came to."""
        ends = [*(span.began_s for span in spans[1:]), now_s()]
        every = zip(spans, ends, self._whole_s, self._repaired[1:], strict=True)
        return [
            Played(
                title=span.title,
                change_s=span.ended_s - span.began_s,
                whole_s=whole_s,
                nobody_s=self._traffic.admissions.nobody_s(span.began_s, end_s),
                somebody_not_s=self._traffic.admissions.somebody_not_s(span.began_s, end_s),
                refused=self._traffic.refused(span.began_s, end_s),
                repaired=frozenset(repaired),
            )
            for span, end_s, whole_s, repaired in every
        ]

    async def opened(self) -> None:
        """Wait until no shard is shut. Raises NotServed."""
        await self._until(lambda: self._shut == frozenset(), "shards are shut")

    async def look(self) -> None:
        """Look at the gate, which repairs shards that have lost entries. Runs until cancelled."""
        while True:
            self._shut = await self._ask()
            self._repaired[-1] |= set(filter(_is_shard, self._shut or ()))
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _served(self, title: str, since_s: float) -> None:
        """Wait until every customer is admitted and no shard is shut. Raises NotServed."""
        await self._until(lambda: self._traffic.admissions.all_since(since_s), title)
        await self.opened()

    async def _until(self, true: Callable[[], bool], what: str) -> None:
        deadline_s = now_s() + WHOLE_WITHIN_S
        while not true():
            if now_s() > deadline_s:
                raise NotServed(f"{what}: {self._shut}\n{self._gate.log_tail()}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _ask(self) -> frozenset[str] | None:
        """Shards that are shut; None while the gate cannot say."""
        try:
            said = (await self._admin.get("/readyz")).json()
        except (httpx.HTTPError, ValueError):
            return None
        return None if said.get("why") else frozenset(said.get("degraded", ()))

    def _named(self) -> dict[str, int]:
        return {name: pid for name, pid in self._gate.processes().items() if ":" not in name}


def _is_shard(word: str) -> bool:
    """Whether what refuses some requests is a shard that has lost entries, not a node that is away."""
    return word.startswith("shard_")
