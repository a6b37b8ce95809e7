"""The kill driver on a real gate: what it says was served is what the events account for."""

import asyncio
import os
import sqlite3
from collections import defaultdict
from pathlib import Path

import orjson
import pytest

from loadtest import gate
from loadtest.chaos import ChaosReport, Kill, run_chaos
from loadtest.generator import Outcome, Result
from loadtest.provider import Provider
from loadtest.served import Row
from tests.upstreams import sim_provider

KILLS = int(os.environ.get("CREDITGATE_CHAOS_KILLS", "3"))
CHECKPOINT_S = 0.5


def charged_tokens(events_db: Path) -> dict[str, int]:
    """Output tokens that the stored events charge, by request."""
    charged: dict[str, int] = defaultdict(int)
    with sqlite3.connect(events_db) as store:
        for request_id, usage in store.execute("SELECT request_id, usage FROM events"):
            units = orjson.loads(usage)
            charged[request_id] += units.get("output", 0) + units.get("reasoning", 0)
    return charged


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * KILLS)
async def test_after_kills_only_what_ran_on_a_killed_worker_is_uncharged(tmp_path: Path) -> None:
    keys = ["sk-a", "sk-b"]
    async with sim_provider(Provider()) as sim:
        config = gate.write_config(
            tmp_path,
            sim.url,
            workers=2,
            keys=keys,
            policy={"hold_ttl_ms": 5000, "checkpoint_interval_ms": round(CHECKPOINT_S * 1e3)},
        )
        serving = gate.serving(config)
        running = await asyncio.to_thread(serving.__enter__)
        try:
            report = await run_chaos(
                running,
                sim.provider,
                keys=keys,
                kills=KILLS,
                connections=8,
                checkpoint_interval_s=CHECKPOINT_S,
                holds_end_within_s=30,
            )
        finally:
            await asyncio.to_thread(serving.__exit__, None, None, None)
    assert len(report.kills) == KILLS
    assert report.result.sent == sum(report.result.endings.values())
    assert sim.provider.served.totals()["repeated_ids"] == 0
    charged = charged_tokens(tmp_path / "data" / "events.db")
    assert {row.request_id for row in report.served} <= set(charged)
    bounds = report.most_uncharged_tokens()
    over = {
        request_id: gap
        for request_id, gap in report.uncharged(charged).items()
        if not 0 <= gap <= bounds.get(request_id, 0)
    }
    assert over == {}


def row(request_id: str, *, stream: bool, output: int, state: str = "complete") -> Row:
    made = Row(request_id, f"client-{request_id}", 1, "chat", stream=stream, state=state)
    made.output = output
    return made


def test_only_requests_that_ran_at_a_workers_kill_are_exposed() -> None:
    result = Result()
    for name, started_s, ended_s in (("before", 1, 2), ("during", 3, 9), ("json", 4, 6)):
        result.outcomes.append(Outcome(f"client-{name}", 200, "cut", 0, started_s, ended_s))
    served = [
        row("before", stream=True, output=50),
        row("during", stream=True, output=50, state="broken"),
        row("json", stream=False, output=40),
        row("gone", stream=True, output=30, state="broken"),
    ]
    kills = [Kill(1.5, "exporter-0", 1), Kill(5.0, "worker-0", 2)]
    report = ChaosReport(kills, result, served, checkpoint_tokens=10, waited_s=0)
    assert report.exposed() == {"during", "json"}
    assert report.most_uncharged_tokens() == {"during": 10, "json": 40, "gone": 8}
    charged = {"before": 50, "during": 44, "json": 0, "gone": 31}
    assert report.uncharged(charged) == {"during": 6, "json": 40, "gone": -1}
