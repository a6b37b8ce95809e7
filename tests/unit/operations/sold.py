"""Events of a small business, as rows of a real store, for tests of reports."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.domain.events import Event
from tests.support.stores import sqlite_sink
from tests.unit.exporter.sinks.contract import batch_of, make_event

DAY_MS = 86_400_000
FIRST = 20_000 * DAY_MS
"""2024-10-04 in UTC."""
UNITS = ("input", "cache_read", "output", "reasoning", "request")


async def store_events(path: Path, events: Sequence[Event]) -> None:
    """Write events through the real sink."""
    sink = sqlite_sink(path)
    await sink.open()
    written = await sink.write(batch_of(events))
    await sink.close()
    assert written.stored == len(events), written


def labels(chance: random.Random, **more: Any) -> dict[str, Any]:
    return {
        "model": chance.choice(["small", "large"]),
        "route": "/v1/chat/completions",
        "upstream": chance.choice(["sim", "other"]),
        "project_id": chance.choice(["p1", None]),
        "key_id": chance.choice(["k1", "k2"]),
        **more,
    }


def some_events(chance: random.Random, count: int) -> list[Event]:
    """Requests with every end, late settlements, refunds and gifts, over a few days."""
    events: list[Event] = []

    def add(kind: str, event_id: str, **said: Any) -> Event:
        events.append(make_event(len(events), kind=kind, event_id=event_id, **said))
        return events[-1]

    def usage(least: int = 0) -> dict[str, int]:
        chosen = chance.sample(UNITS, chance.randrange(1, 4))
        return {unit: least + chance.randrange(1000) for unit in chosen}

    for number in range(count):
        at_ms = FIRST + chance.randrange(4 * DAY_MS)
        cost_nano = chance.choice([None, chance.randrange(500)])
        said = {
            "customer_id": chance.choice(["acme", "zeta"]),
            "occurred_at_ms": at_ms,
            "facts": labels(chance, request_id=f"r{number}"),
            "price_version": "p",
            "cost_nano": cost_nano,
        }
        kind = chance.choice(["settle", "settle", "settle", "expire", "release", "grant"])
        if kind == "grant":
            add("grant", f"g{number}", **{**said, "facts": {}, "usage": {}, "cost_nano": None})
        elif kind == "release":
            add("release", f"r{number}:released", amount_nano=0, **{**said, "usage": {}})
        elif kind == "settle":
            charged = chance.randrange(10_000)
            settled = add(
                "settle", f"r{number}:settled", amount_nano=charged, usage=usage(), **said
            )
            if chance.random() < 0.3:
                add(
                    "adjust",
                    f"refund:{number}",
                    customer_id=settled.customer_id,
                    occurred_at_ms=at_ms + chance.randrange(2 * DAY_MS),
                    amount_nano=chance.randrange(charged + 1),
                    usage={},
                    facts={"corrects": settled.event_id, "operation": "refund"},
                )
        else:
            first = usage()
            add("expire", f"r{number}:expired", amount_nano=100, usage=first, **said)
            if chance.random() < 0.7:
                late = {unit: n + chance.randrange(50) for unit, n in first.items()}
                late["output"] = late.get("output", 0) + 1
                later = {**said, "occurred_at_ms": at_ms + chance.randrange(DAY_MS)}
                difference = chance.randrange(-100, 500)
                add(
                    "settle_late",
                    f"r{number}:settled_late",
                    amount_nano=difference,
                    usage=late,
                    **later,
                )
        if chance.random() < 0.1:
            gift = {"amount_nano": chance.randrange(-50, 50), "usage": {}, "facts": {}}
            add("adjust", f"gift:{number}", customer_id="acme", occurred_at_ms=at_ms, **gift)
    return events
