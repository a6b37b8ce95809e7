"""Kills workers and the exporter under load, and hands over what was really served.

    python -m loadtest.chaos --kills 20 --workers 2 --out chaos.json

Invariants: this side only breaks things and tells the truth about what went over the wires; whether
the ledger and the store agree with it is said by `creditgate verify`. Restarting is the
supervisor's work. The load ends first, then every hold is settled or expires, and only then
is the ground truth taken.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from loadtest import gate as gates
from loadtest import provider
from loadtest.generator import Load, Result
from loadtest.provider import Provider
from loadtest.requests import CLIENT_HEADERS, Shot, Source, http_request
from loadtest.served import Row

MODEL: Final = gates.MODEL
_FULL_WITHIN_S: Final = 30.0
_SETTLES_WITHIN_S: Final = 1.0
"""An answer that its client has whole may not be settled yet; it soon is."""
_CHECKPOINT_LATE_S: Final = 0.25
"""How late a checkpoint may be when its worker dies: a busy loop, the way to the ledger."""
_ON_THE_WAY_TOKENS: Final = 16
"""Tokens that may lie between the provider's socket and the gate when it stops reading; 9 were seen on a
machine with six times more to do than it could."""
_LOOK_EVERY_S: Final = 0.1


class Target(Protocol):
    """What chaos needs of a running gate; `loadtest.gate.Gate` is one."""

    @property
    def url(self) -> str:
        """Where it serves."""
        ...

    def processes(self) -> dict[str, int]:
        """Its processes by name: supervisor, worker-0, …, exporter-0."""
        ...


class NotRecovered(Exception):
    """The gate did not come back to its full strength, or holds stayed open, in time."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One process killed; at_s is on the clock of the outcomes (`time.monotonic`)."""

    at_s: float
    name: str
    pid: int


@dataclass(slots=True)
class ChaosReport:
    """Ground truth of a run.

    kills:             in order
    result:            what the clients saw; `outcomes` has one entry per request, whose
                       request_id is the `x-client-request-id` it carried
    served:            what the provider saw and sent, one row per POST; `request_id` is the
                       gate's own id, the one in its events
    checkpoint_tokens: most output tokens a stream can have sent since its last checkpoint
    waited_s:          how long the last hold took to end
    """

    kills: list[Kill]
    result: Result
    served: list[Row]
    checkpoint_tokens: int
    waited_s: float

    @property
    def served_tokens(self) -> int:
        """Output tokens that the provider wrote to its sockets."""
        return sum(row.output for row in self.served)

    def exposed(self) -> set[str]:
        """Ids (the gate's) of the requests that ran while a worker was killed, perhaps on it."""
        times = [kill.at_s for kill in self.kills if kill.name.startswith("worker")]
        ran = {
            outcome.request_id
            for outcome in self.result.outcomes
            if any(
                outcome.started_s <= at_s <= outcome.ended_s + _SETTLES_WITHIN_S for at_s in times
            )
        }
        return {row.request_id for row in self.served if row.client_id in ran}

    def most_uncharged_tokens(self) -> dict[str, int]:
        """Identity 5 by request: output tokens that may be served and not charged.

        A killed worker loses what a stream sent since its last checkpoint, and a JSON answer,
        which has none, whole. A stream that broke otherwise loses what was on its way when
        the gate stopped reading. Every other answer is charged in full.
        """
        exposed = self.exposed()
        left = {each.request_id for each in self.result.outcomes if each.ending == "left"}
        bounds = {}
        for row in self.served:
            if row.request_id in exposed:
                most = self.checkpoint_tokens if row.stream else row.output
                bounds[row.request_id] = min(row.output, most)
            elif row.stream and (row.state == "broken" or row.client_id in left):
                bounds[row.request_id] = min(row.output, _ON_THE_WAY_TOKENS)
        return bounds

    def uncharged(self, charged: Mapping[str, int]) -> dict[str, int]:
        """Output tokens served and not charged, by request, where they are not equal.

        charged: output tokens (reasoning included) that the events charge, by request id
        """
        gaps = {row.request_id: row.output - charged.get(row.request_id, 0) for row in self.served}
        return {request_id: gap for request_id, gap in gaps.items() if gap}

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "kills": [dataclasses.asdict(kill) for kill in self.kills],
            "statuses": {str(status): n for status, n in self.result.statuses.items()},
            "endings": dict(self.result.endings),
            "served_tokens": self.served_tokens,
            "most_uncharged_tokens": self.most_uncharged_tokens(),
            "waited_s": self.waited_s,
            "outcomes": [dataclasses.asdict(outcome) for outcome in self.result.outcomes],
            "served": [dataclasses.asdict(row) for row in self.served],
        }


@dataclass(frozen=True, slots=True)
class Mix:
    """What the load is made of. The shares of kinds need not sum to one: the rest is JSON chat.

    streams, messages:   share of streamed chats, and of streamed Anthropic messages
    leaving:             share of the streams whose client goes away in the middle
    faulty:              share of requests for which the provider fails (500, cut, no usage)
    itl_ms:              between two tokens of a stream
    """

    streams: float = 0.4
    messages: float = 0.2
    leaving: float = 0.1
    faulty: float = 0.1
    itl_ms: float = 5.0
    most_tokens: int = 120


def mixed(keys: Sequence[str], mix: Mix, rng: random.Random, more: Callable[[], bool]) -> Source:
    """Requests of this mix, each with an `x-client-request-id` of its own, while `more()`."""

    def source(number: int) -> Shot | None:
        return _shot(f"chaos-{number}", rng.choice(keys), mix, rng) if more() else None

    return source


def _shot(client_id: str, key: str, mix: Mix, rng: random.Random) -> Shot:
    drawn = rng.random()
    message = mix.streams <= drawn < mix.streams + mix.messages
    stream = drawn < mix.streams + mix.messages
    tokens = rng.randint(1, mix.most_tokens)
    controls = f"sim: tokens={tokens} itl_ms={mix.itl_ms if stream else 0.2}"
    if rng.random() < mix.faulty:
        faults = ["status=500", "status=429", "usage=missing", "rst=before_head"]
        faults += [f"cut={rng.randint(0, tokens)}"] * 2 if stream else []
        controls += f" {rng.choice(faults)}"
    document: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": mix.most_tokens,
        "messages": [{"role": "user", "content": f"Tell me something.\n{controls}"}],
    }
    if stream:
        document["stream"] = True
    headers = {**CLIENT_HEADERS, "x-client-request-id": client_id}
    headers |= {"x-api-key": key} if message else {"authorization": f"Bearer {key}"}
    path = "/v1/messages" if message else "/v1/chat/completions"
    leave = rng.randint(0, tokens * 200) if stream and rng.random() < mix.leaving else None
    return Shot(http_request(path, orjson.dumps(document), headers), client_id, leave)


async def run_chaos(
    target: Target,
    simulated: Provider,
    *,
    keys: Sequence[str],
    kills: int,
    connections: int = 32,
    pause_s: tuple[float, float] = (0.2, 1.0),
    exporter_share: float = 0.25,
    checkpoint_interval_s: float,
    holds_end_within_s: float,
    mix: Mix | None = None,
    seed: int = 0,
) -> ChaosReport:
    """Load the gate, kill its processes one after the other, wait until no hold is open.

    simulated:              the provider behind the gate, in this process
    pause_s:                shortest and longest time between a full gate and the next kill
    checkpoint_interval_s:  as the gate is configured
    holds_end_within_s:     the hold's life and the time a sweep may take
    Raises NotRecovered.
    """
    mix = mix or Mix()
    rng = random.Random(seed)
    more = True
    load = Load(
        target.url,
        mixed(keys, mix, random.Random(seed + 1), lambda: more),
        connections=connections,
        record=True,
    )
    loading = asyncio.ensure_future(load.run())
    done: list[Kill] = []
    try:
        full = len(await asyncio.to_thread(_victims, target))
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(*pause_s))
            name, pid = await _full_gate(target, full, rng, exporter_share)
            os.kill(pid, signal.SIGKILL)
            done.append(Kill(time.monotonic(), name, pid))
        await asyncio.sleep(pause_s[1])
    finally:
        more = False
        result = await loading
    waited_s = await holds_ended(target.url, keys, holds_end_within_s)
    rows = list(simulated.served.rows)
    return ChaosReport(
        kills=done,
        result=result,
        served=rows,
        checkpoint_tokens=round((checkpoint_interval_s + _CHECKPOINT_LATE_S) * 1e3 / mix.itl_ms),
        waited_s=waited_s,
    )


def _victims(target: Target) -> dict[str, int]:
    roles = ("worker", "exporter")
    found = target.processes().items()
    return {name: pid for name, pid in found if name.partition("-")[0] in roles}


async def _full_gate(
    target: Target, full: int, rng: random.Random, exporter_share: float
) -> tuple[str, int]:
    """Wait until all processes are there again and pick one. Raises NotRecovered."""
    deadline_s = time.monotonic() + _FULL_WITHIN_S
    while len(found := await asyncio.to_thread(_victims, target)) < full:
        if time.monotonic() > deadline_s:
            raise NotRecovered(f"only {sorted(found)} of {full} processes are there")
        await asyncio.sleep(_LOOK_EVERY_S)
    exporters = [name for name in found if name.startswith("exporter")]
    workers = [name for name in found if name.startswith("worker")]
    name = rng.choice(exporters if exporters and rng.random() < exporter_share else workers)
    return name, found[name]


async def holds_ended(url: str, keys: Sequence[str], within_s: float) -> float:
    """Wait until nothing is held for any of these keys' customers; return how long it took.

    Raises NotRecovered.
    """
    started_s = time.monotonic()
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
        for key in keys:
            held = ""
            while held != "0":
                with contextlib.suppress(httpx.HTTPError, KeyError):
                    answer = await client.get(
                        "/v1/credits", headers={"authorization": f"Bearer {key}"}
                    )
                    held = answer.json()["data"]["held"]
                if time.monotonic() - started_s > within_s:
                    raise NotRecovered(f"{held or 'an unknown amount'} is still held")
                await asyncio.sleep(_LOOK_EVERY_S)
    return time.monotonic() - started_s


def summary(report: ChaosReport) -> Table:
    """The report's figures, as a table."""
    table = Table("figure", "value", show_header=False)
    table.add_row("kills", f"{len(report.kills)}")
    table.add_row("requests", f"{report.result.sent:,}")
    for ending, count in sorted(report.result.endings.items()):
        table.add_row(f"ended {ending}", f"{count:,}")
    for (status, code), count in sorted(report.result.refusals.items()):
        table.add_row(f"refused {status} {code}", f"{count:,}")
    table.add_row("output tokens served", f"{report.served_tokens:,}")
    table.add_row("requests exposed to a kill", f"{len(report.exposed()):,}")
    bounds = report.most_uncharged_tokens()
    table.add_row("of them may be uncharged", f"{sum(bounds.values()):,}")
    table.add_row("last hold ended after, s", f"{report.waited_s:.1f}")
    return table


async def _main(arguments: argparse.Namespace) -> None:
    console = Console()
    keys = [f"sk-chaos-{number}" for number in range(4)]
    policy = {"hold_ttl_ms": 10_000, "checkpoint_interval_ms": 1000}
    with contextlib.ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        async with provider.running(simulated := Provider()) as url:
            config = gates.write_config(
                folder, url, workers=arguments.workers, keys=keys, policy=policy
            )
            serving = gates.serving(config)
            gate = await asyncio.to_thread(serving.__enter__)
            try:
                report = await run_chaos(
                    gate,
                    simulated,
                    keys=keys,
                    kills=arguments.kills,
                    checkpoint_interval_s=1.0,
                    holds_end_within_s=60,
                    seed=arguments.seed,
                )
            finally:
                await asyncio.to_thread(serving.__exit__, None, None, None)
    if arguments.out is not None:
        arguments.out.write_bytes(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2))
    console.print(summary(report))


def main() -> None:
    """Entry point of `python -m loadtest.chaos`."""
    parser = argparse.ArgumentParser(prog="loadtest.chaos", description="Kill a gate under load.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the gate's data here")
    parser.add_argument("--out", type=Path, help="write the ground truth as JSON")
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
