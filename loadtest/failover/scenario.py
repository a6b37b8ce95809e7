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
from loadtest.failover import repair
from loadtest.failover.checks import Checked, Span, check
from loadtest.failover.load import Traffic, now_s
from loadtest.generator import Result
from loadtest.ports import free_ports
from loadtest.provider import Provider

CUSTOMERS: Final = 8
CALM_S: Final = 2.0
"""Load before and after each step, so that the store catches up and each has a beginning."""
WHOLE_WITHIN_S: Final = 90.0
_LOOK_EVERY_S: Final = 0.1
_PATIENCE_S: Final = 1.0
"""A shard has so long to open by itself before `repair` is called."""


class NotServed(Exception):
    """The gate did not serve everybody again, or was restarted. The message says what it says of itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to the servers. act: blocks until it has happened and they are a ledger again"""

    title: str
    act: Callable[[], object]


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
            stage = _Stage(gate, f"http://127.0.0.1:{admin_port}", config, traffic)
            spans = await stage.play(steps, console)
            result = await traffic.stop()
            await chaos.holds_ended(gate.url, keys, WHOLE_WITHIN_S)
            await stage.opened()  # what was noticed last
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

    def __init__(self, gate: gates.Gate, admin_url: str, config: Path, traffic: Traffic) -> None:
        self._gate = gate
        self._admin = httpx.AsyncClient(base_url=admin_url, trust_env=False)
        self._traffic = traffic
        self._repair = repair.reopen(config)
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
                await asyncio.sleep(CALM_S)
                progress.update(shown, description=step.title)
                began_s = now_s()
                self._repaired.append(set())
                await asyncio.to_thread(step.act)
                spans.append(Span(step.title, began_s, now_s()))
                await self._served(step.title)
                await self.opened()
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
                nobody_s=self._traffic.nobody_s(span.began_s, end_s),
                somebody_not_s=self._traffic.somebody_not_s(span.began_s, end_s),
                refused=self._traffic.refused(span.began_s, end_s),
                repaired=frozenset(repaired),
            )
            for span, end_s, whole_s, repaired in every
        ]

    async def opened(self) -> None:
        """Wait until no shard is shut, with repairs where one has lost entries. Raises NotServed."""
        said, shut_since_s, deadline_s = "", None, now_s() + WHOLE_WITHIN_S
        while (shut := await self._shut()) != frozenset():
            self._repaired[-1] |= set(filter(_is_shard, shut or ()))
            shut_since_s = shut_since_s or now_s()
            if any(map(_is_shard, shut or ())) and now_s() - shut_since_s > _PATIENCE_S:
                said, shut_since_s = await self._repair(), None
            if now_s() > deadline_s:
                raise NotServed(f"{shut} are shut.\n{said}\n{self._gate.log_tail()}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _served(self, title: str) -> None:
        """Wait until every customer is admitted, or shards are shut. Raises NotServed."""
        since_s = now_s()
        while not self._traffic.all_admitted_since(since_s) and not await self._shut():
            if now_s() > since_s + WHOLE_WITHIN_S:
                raise NotServed(f"{title}: somebody is not admitted.\n{self._gate.log_tail()}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _shut(self) -> frozenset[str] | None:
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
