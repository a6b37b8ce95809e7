"""What was served against what was charged, once the gate has stopped."""

import asyncio
import sqlite3
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from loadtest.chaos import ChaosReport

BEFORE_S: Final = 1.0
"""How long before a failure a request may have ended whose charge the failure loses: what the old
primary acknowledged and neither its replica nor the store had. Both follow within milliseconds, and
everything waits on a machine that is busy."""
AFTER_S: Final = 3.0
"""How long after a switch answers that began before it may still end."""
_COMMAND_WITHIN_S: Final = 60.0
_KINDS: Final = ("settle", "release", "expire", "settle_late")
_TERMINAL: Final = ("settle", "release", "expire")


@dataclass(frozen=True, slots=True)
class Span:
    """From a failure to the switch, in seconds of `time.monotonic`."""

    title: str
    began_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Loss:
    """A request that was charged less than it was served, for a failure lost what was charged.

    cause: the step
    """

    request_id: str
    served_tokens: int
    charged_tokens: int
    cause: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What the gate's records say.

    verified: what `creditgate verify` said; clean: it found no drift and no hold
    losses:   in order of their requests
    wrong:    sentences about what no failure explains; empty if all is well
    """

    verified: str
    clean: bool
    requests: int
    served_tokens: int
    charged_tokens: int
    losses: list[Loss]
    wrong: list[str]

    @property
    def good(self) -> bool:
        """Whether all identities hold, except for the losses."""
        return self.clean and not self.wrong


async def check(config: Path, report: ChaosReport, spans: Sequence[Span]) -> Checked:
    """Verify the ledger and compare the store with the ground truth. The gate has stopped."""
    code, said = await _run(config, "verify")
    events = await asyncio.to_thread(_events, config.parent / "data" / "events.db")
    losses, wrong = compare(report, events, spans)
    return Checked(
        verified=said.strip(),
        clean=code == 0,
        requests=len(report.served),
        served_tokens=report.served_tokens,
        charged_tokens=sum(event.tokens for event in events),
        losses=losses,
        wrong=wrong,
    )


@dataclass(frozen=True, slots=True)
class Event:
    """A usage event of the store. tokens: output tokens that it charges, reasoning included"""

    event_id: str
    kind: str
    request_id: str
    tokens: int


def _events(events_db: Path) -> list[Event]:
    """The usage events in the gate's store, with the output tokens that they charge."""
    with closing(sqlite3.connect(events_db)) as store:
        rows = store.execute(
            f"SELECT event_id, kind, request_id, usage FROM events WHERE kind IN {_KINDS}"
        ).fetchall()
    return [
        Event(
            event_id,
            kind,
            request_id,
            sum(orjson.loads(usage).get(unit, 0) for unit in ("output", "reasoning")),
        )
        for event_id, kind, request_id, usage in rows
    ]


def compare(
    report: ChaosReport, events: Sequence[Event], spans: Sequence[Span]
) -> tuple[list[Loss], list[str]]:
    """Losses, and sentences about what no failure explains."""
    late = {event.request_id for event in events if event.kind == "settle_late"}
    charged = Counter[str]()
    for event in events:
        if event.kind != "expire" or event.request_id not in late:  # which says all of it again
            charged[event.request_id] += event.tokens
    wrong = [
        f"event {event_id} is in the store {count} times"
        for event_id, count in Counter(event.event_id for event in events).items()
        if count > 1
    ]
    ends = Counter(event.request_id for event in events if event.kind in _TERMINAL)
    wrong += [f"{name} has {n} terminal events" for name, n in ends.items() if n > 1]
    bounds = report.most_uncharged_tokens()
    ended = {outcome.request_id: outcome.ended_s for outcome in report.result.outcomes}
    losses = []
    for row in report.served:
        paid = charged[row.request_id]
        if row.request_id in ends and 0 <= row.output - paid <= bounds.get(row.request_id, 0):
            continue
        if paid > row.output:
            wrong.append(f"{row.request_id} was served {row.output} tokens and charged {paid}")
            continue
        cause = _cause(ended.get(row.client_id, 0.0), spans)
        if cause is None:
            wrong.append(f"{row.request_id} was charged {paid} of {row.output}, and nothing failed")
        else:
            losses.append(Loss(row.request_id, row.output, paid, cause))
    return losses, wrong


def _cause(ended_s: float, spans: Sequence[Span]) -> str | None:
    """The failure around which a request ended."""
    return next(
        (
            span.title
            for span in spans
            if span.began_s - BEFORE_S <= ended_s <= span.ended_s + AFTER_S
        ),
        None,
    )


async def _run(config: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of a command of the gate."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *words, "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(_COMMAND_WITHIN_S):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")
