"""`make soak`: a gate under mixed load for an hour; nothing may drift, no memory may grow.

    python -m loadtest.growth.soak [--minutes 60] [--rate 40]

A real gate (two workers, embedded ledger with its append-only file, exporter into SQLite) in front
of a simulated provider: JSON, streams, Anthropic messages, clients that leave, answers that break
off, customers without credit, at their limit, and with an unknown key.

Invariants: only the second part of the run, after the warm-up, is judged. The least-squares line of
each series may rise, from the part's first to its last sample, by no more than the bound. The
ledger's memory has a separate bound, per record: tombstones live for an hour, so growth is expected
in a run's first hour. At the end the load stops, every hold ends, the outbox empties, and
`creditgate verify` finds no drift. Exit 1 if any of this fails.
"""

import argparse
import asyncio
import contextlib
import hashlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import psutil
import redis
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.ledger.codec.key_names import Keys
from loadtest import chaos, children
from loadtest import gate as gates
from loadtest.generator import Load, Result, summary
from loadtest.growth.chart import Line, Panel, draw
from loadtest.growth.gate import MIB, START_WITHIN_S, uss_bytes
from loadtest.growth.page import table

MIX: Final = chaos.Mix(streams=0.3, messages=0.2, leaving=0.15, faulty=0.1, itl_ms=10)
RICH: Final = tuple(f"sk-rich-{number}" for number in range(6))
BROKE: Final = "sk-broke"
LIMITED: Final = "sk-limited"
UNKNOWN: Final = "sk-unknown"
KEYS: Final = (*RICH, BROKE, LIMITED, UNKNOWN)
WARM_MINUTES: Final = 26.0
"""What is remembered of unanswered requests goes after ten minutes, and the exporter's page cache is
full after 40,000 events: until then memory grows by rights."""
WARM_SHARE: Final = 0.6
"""Of a run that is shorter, this much."""
BOUND_SHARE: Final = 0.05
BOUND_BYTES: Final = 6 * MIB
"""What 96 open streams take of a worker, and 2 MiB: there are more of them when the machine is slow."""
STORE_CACHE_BYTES: Final = 37 * MIB
"""What the exporter may have more than at first: SQLite's cache of 32 MiB, with the pages' heads."""
BOUND_DESCRIPTORS: Final = 8
"""Between the gate at rest before the load, and at rest after it."""
BOUND_LEDGER_DESCRIPTORS: Final = 24
"""The same of the ledger's server, to which each process' pool of at most eight connections stays
connected: what those of the two workers and the exporter may have gained."""
BOUND_RECORD_BYTES: Final = 48.0
"""Tables double, and hold nothing at first."""
_FEWEST_SAMPLES: Final = 5
_SAMPLES: Final = 300
_FULLEST_SAMPLE_S: Final = 10.0
_ENDS_WITHIN_S: Final = 120.0
_CONNECTIONS: Final = 96


@dataclass(frozen=True, slots=True)
class Bound:
    """How much a series may rise over the judged part: the greater of a share of where it begins,
    and so much."""

    share: float
    least: float

    def allows(self, start: float) -> float:
        """In the series' unit."""
        return max(self.share * start, self.least)


@dataclass(frozen=True, slots=True)
class Trend:
    """A series' line of least squares over the judged part.

    start:  where the line begins
    rise:   from the first sample to the last
    """

    name: str
    unit: str
    start: float
    rise: float
    per_hour: float
    allowed: float

    @property
    def good(self) -> bool:
        """Whether it stays within its bound. A fall is good."""
        return self.rise <= self.allowed


def trend(
    name: str, unit: str, at_s: Sequence[float], values: Sequence[float], bound: Bound
) -> Trend:
    """Fit one series. Needs two samples at least."""
    line = statistics.linear_regression(at_s, values)
    start = line.intercept + line.slope * at_s[0]
    rise = line.slope * (at_s[-1] - at_s[0])
    return Trend(name, unit, start, rise, line.slope * 3600, bound.allows(start))


@dataclass(slots=True)
class Series:
    """Samples: seconds since the load began, and a value of each name."""

    at_s: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, at_s: float, sample: dict[str, float]) -> None:
        """Note one sample; each has the same names."""
        self.at_s.append(at_s)
        for name, value in sample.items():
            self.values.setdefault(name, []).append(value)

    def after(self, warm_s: float) -> "Series":
        """The samples after the warm-up."""
        first = sum(at_s < warm_s for at_s in self.at_s)
        values = {name: each[first:] for name, each in self.values.items()}
        return Series(self.at_s[first:], values)


def judge(series: Series, warm_s: float) -> list[Trend]:
    """The trends of what must not grow. Raises SoakFailed when too little was sampled."""
    judged = series.after(warm_s)
    if len(judged.at_s) < _FEWEST_SAMPLES:
        raise SoakFailed(f"only {len(judged.at_s)} samples after the warm-up")
    trends = []
    for name, values in judged.values.items():
        if name.endswith(" memory"):
            least = float(BOUND_BYTES)
            if name.startswith("exporter"):
                least = max(least, series.values[name][0] + STORE_CACHE_BYTES - values[0])
            trends.append(trend(name, "bytes", judged.at_s, values, Bound(BOUND_SHARE, least)))
    each = per_record(series)[-len(judged.at_s) :]
    bound = Bound(BOUND_SHARE, BOUND_RECORD_BYTES)
    trends.append(trend("ledger, bytes a record", "bytes", judged.at_s, each, bound))
    return trends


def per_record(series: Series) -> list[float]:
    """Bytes that the ledger uses more than at the first sample, for each record that it has more.

    Of the first sample, which has none more, it is 0.
    """
    used, records = series.values["ledger used"], series.values["ledger records"]
    return [
        (u - used[0]) / (r - records[0]) if r > records[0] else 0.0
        for u, r in zip(used, records, strict=True)
    ]


class SoakFailed(Exception):
    """The soak could not be run to its end."""


@dataclass(slots=True)
class Soaked:
    """What a soak found.

    rest:   descriptors of each process at rest, before the load and after it
    left:   holds and outbox entries that were still there in the end
    drifts: what `creditgate verify` said, empty when clean
    """

    minutes: float
    warm_s: float
    series: Series
    result: Result
    rest: tuple[dict[str, int], dict[str, int]]
    left: dict[str, int]
    drifts: str
    verified: str
    trends: list[Trend]

    @property
    def good(self) -> bool:
        """Whether nothing drifted, nothing was left and nothing grew."""
        found = (self.drifts, any(self.left.values()), self.kept)
        return not any(found) and all(one.good for one in self.trends)

    @property
    def kept(self) -> dict[str, int]:
        """Processes that have kept more descriptors than allowed, and how many."""
        before, after = self.rest
        return _beyond(before, after)


class _Watch:
    """Reads the gate's processes and its ledger."""

    def __init__(self, gate: gates.Gate) -> None:
        named = gate.processes()
        self.pids = {name: pid for name, pid in named.items() if ":" not in name}
        (server,) = (pid for name, pid in named.items() if name.startswith("valkey-server"))
        self._server = server
        self._client: Any = redis.Redis(
            unix_socket_path=str(gate.folder / "data/ledger/ledger.sock")
        )
        self._keys = Keys()

    def sample(self) -> dict[str, float]:
        """One sample. Memory of the gate's processes is what they have for themselves."""
        taken: dict[str, float] = {}
        for name, pid in self.pids.items():
            taken[f"{name} memory"] = uss_bytes(pid)
        for name, count in self.descriptors().items():
            taken[f"{name} descriptors"] = count
        taken["ledger used"] = self._client.info("memory")["used_memory"]
        taken["ledger records"] = self._client.dbsize()
        return {**taken, **{name: float(value) for name, value in self.left().items()}}

    def descriptors(self) -> dict[str, int]:
        """Open descriptors of each process."""
        pids = {**self.pids, "ledger": self._server}
        return {name: psutil.Process(pid).num_fds() for name, pid in pids.items()}

    def left(self) -> dict[str, int]:
        """Holds and outbox entries."""
        pipe = self._client.pipeline(transaction=False)
        shards = range(self._keys.shard_count)
        for shard in shards:
            pipe.zcard(self._keys.due(shard))
        for shard in shards:
            pipe.xlen(self._keys.out(shard))
        counts = pipe.execute()
        return {"holds": sum(counts[: len(shards)]), "outbox": sum(counts[len(shards) :])}

    def close(self) -> None:
        """Close the connection to the ledger."""
        self._client.close()


def _customers() -> dict[str, Any]:
    def customer(key: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return {"keys": [{"id": f"k-{key}", "sha256": digest}], **more}

    grant = {"grants": [{"name": "load", "amount": "900000.00", "category": "paid"}]}
    per_minute = {
        "limits": [{"scope": "customer", "measure": "requests", "window": "minute", "ceiling": 30}]
    }
    return {
        **{key: customer(key, **grant) for key in RICH},
        BROKE: customer(BROKE),
        LIMITED: customer(LIMITED, **grant, **per_minute),
    }


async def _load(url: str, seconds: float, rate: float, seed: int) -> Result:
    source = chaos.mixed(KEYS, MIX, random.Random(seed), lambda: True)
    load = Load(
        url, source, connections=_CONNECTIONS, seconds=seconds, rate=rate, drain_s=30, seed=seed
    )
    return await load.run()


async def _run(
    gate: gates.Gate, watch: _Watch, minutes: float, rate: float, progress: Progress
) -> tuple[Series, Result]:
    series, seconds = Series(), minutes * 60
    every_s = min(seconds / _SAMPLES * 4, _FULLEST_SAMPLE_S)
    task = progress.add_task("load", total=seconds)
    began_s = time.monotonic()
    loading = asyncio.ensure_future(_load(gate.url, seconds, rate, 1))
    while not loading.done():
        await asyncio.wait([loading], timeout=every_s)
        at_s = time.monotonic() - began_s
        if at_s <= seconds:
            series.add(at_s, await asyncio.to_thread(watch.sample))
        progress.update(task, completed=min(at_s, seconds))
    result = loading.result()
    async with httpx.AsyncClient(base_url=gate.url, trust_env=False) as client:
        (await client.get("/readyz")).raise_for_status()
    return series, result


def _emptied(watch: _Watch) -> dict[str, int]:
    """Wait until no hold is open and the store has everything; what is left after a while."""
    deadline_s = time.monotonic() + _ENDS_WITHIN_S
    left = watch.left()
    while any(left.values()) and time.monotonic() < deadline_s:
        time.sleep(0.5)
        left = watch.left()
    return left


def _beyond(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Processes that have more descriptors than they may, and how many more than before."""
    more = {name: after[name] - count for name, count in before.items()}
    bounds = {"ledger": BOUND_LEDGER_DESCRIPTORS}
    return {n: count for n, count in more.items() if count > bounds.get(n, BOUND_DESCRIPTORS)}


def _at_rest(watch: _Watch, before: dict[str, int]) -> dict[str, int]:
    """Wait until idle connections have closed; the descriptors then, or after a while."""
    deadline_s = time.monotonic() + _ENDS_WITHIN_S
    after = watch.descriptors()
    while time.monotonic() < deadline_s and _beyond(before, after):
        time.sleep(0.5)
        after = watch.descriptors()
    return after


def soak(minutes: float, rate: float, console: Console, folder: Path | None = None) -> Soaked:
    """Run it. folder: keeps the gate's data. Raises SoakFailed, GateFailed."""
    warm_s = min(WARM_MINUTES, WARM_SHARE * minutes) * 60
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        provider = stack.enter_context(children.provider())
        changes = {"customers": _customers()}
        policy = {"hold_ttl_ms": 10_000, "checkpoint_interval_ms": 1000}
        config = gates.write_config(folder, provider.url, workers=2, policy=policy, changes=changes)
        gate = stack.enter_context(gates.serving(config, ready_s=START_WITHIN_S))
        watch = _Watch(gate)
        stack.callback(watch.close)
        before = watch.descriptors()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            series, result = uvloop.run(_run(gate, watch, minutes, rate, progress))
        left = _emptied(watch)
        after = _at_rest(watch, before)
        same = {name: pid for name, pid in gate.processes().items() if ":" not in name}
        if same != watch.pids:
            raise SoakFailed(f"processes were replaced: {watch.pids} → {same}\n{gate.log_tail()}")
        command = [sys.executable, "-m", "gateway.cli", "verify", "--config", str(config)]
        verified = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (verified.stdout + verified.stderr).strip()
    return Soaked(
        minutes,
        warm_s,
        series,
        result,
        (before, after),
        left,
        "" if verified.returncode == 0 else said,
        said,
        judge(series, warm_s),
    )


def panels(soaked: Soaked) -> list[Panel]:
    """Memory, the ledger, descriptors, and what waits, over the minutes."""
    minutes = [at_s / 60 for at_s in soaked.series.at_s]
    values = soaked.series.values

    def lines(ending: str, unit: float) -> list[Line]:
        return [
            Line(name.removesuffix(ending), minutes, [value / unit for value in each])
            for name, each in values.items()
            if name.endswith(ending)
        ]

    plain: Any = {"x": "minutes", "log": False, "dots": False}
    return [
        Panel("Memory of the gate's processes", y="MiB", lines=lines(" memory", MIB), **plain),
        Panel(
            "Memory of the ledger",
            y="bytes a record",
            lines=[Line("used a record", minutes[1:], per_record(soaked.series)[1:])],
            **plain,
        ),
        Panel("Open descriptors", y="descriptors", lines=lines(" descriptors", 1), **plain),
        Panel(
            "What waits",
            y="holds, outbox entries",
            lines=[Line(name, minutes, values[name]) for name in ("holds", "outbox")],
            **plain,
        ),
    ]


def as_json(soaked: Soaked) -> dict[str, Any]:
    """Everything, as JSON values."""
    return {
        "minutes": soaked.minutes,
        "warm_s": soaked.warm_s,
        "good": soaked.good,
        "statuses": {str(status): count for status, count in soaked.result.statuses.items()},
        "endings": dict(soaked.result.endings),
        "at_rest": soaked.rest,
        "left": soaked.left,
        "verified": soaked.verified,
        "trends": [
            {name: getattr(one, name) for name in (*Trend.__slots__, "good")}
            for one in soaked.trends
        ],
        "table": table(COLUMNS, told(soaked.trends)),
        "at_s": soaked.series.at_s,
        "values": soaked.series.values,
    }


COLUMNS: Final = ("series", "at first", "rise", "an hour", "allowed rise", "")


def told(trends: Sequence[Trend]) -> list[list[str]]:
    """The trends as a table's rows, memory in MiB."""
    rows = []
    for one in trends:
        unit, digits = (MIB, ".2f") if one.name.endswith("memory") else (1, ".1f")
        name = f"{one.name}, MiB" if unit == MIB else one.name
        figures = (one.start, one.rise, one.per_hour, one.allowed)
        cells = [f"{figure / unit:{digits}}" for figure in figures]
        rows.append([name, *cells, "" if one.good else "GROWS"])
    return rows


def show(soaked: Soaked, console: Console) -> None:
    """The load, the trends, the verdict."""
    console.print(summary(soaked.result))
    shown = Table(*COLUMNS, title=f"After {soaked.warm_s / 60:.1f} minutes")
    for row in told(soaked.trends):
        shown.add_row(*row)
    console.print(shown)
    before, after = soaked.rest
    console.print(f"descriptors at rest: {before} → {after}", highlight=False)
    console.print(f"left in the end: {soaked.left}", highlight=False)
    console.print(soaked.verified, highlight=False, markup=False)


def main() -> None:
    """Entry point of `python -m loadtest.growth.soak`."""
    parser = argparse.ArgumentParser(prog="loadtest.growth.soak", description="A long mixed load.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=40, help="requests a second")
    parser.add_argument("--folder", type=Path, help="keep the gate's data here")
    parser.add_argument("--out", type=Path, default=Path("reports/growth"))
    parser.add_argument(
        "--charts", type=Path, help="where the chart goes; default: next to the report"
    )
    arguments = parser.parse_args()
    console = Console()
    console.width = max(console.width, 100)
    soaked = soak(arguments.minutes, arguments.rate, console, arguments.folder)
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = orjson.dumps(as_json(soaked), option=orjson.OPT_INDENT_2)
    (arguments.out / "soak.json").write_bytes(document)
    draw(panels(soaked), (arguments.charts or arguments.out) / "soak.svg")
    show(soaked, console)
    raise SystemExit(0 if soaked.good else 1)


if __name__ == "__main__":
    main()
