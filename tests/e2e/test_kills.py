"""Promises 1 and 2: workers and the exporter are killed (-9) under load, again and again; then
`creditgate verify` is clean, the store has one event for each reservation, and what the upstream
served less what was charged is within the checkpoint interval times the streams killed.

`make kill-test` runs the long form.
"""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest

from loadtest import gate
from loadtest.chaos import ChaosReport, run_chaos
from loadtest.provider import Provider
from tests.support.upstreams import sim_provider

KILLS = int(os.environ.get("CREDITGATE_KILLS", "2"))
CHECKPOINT_S = 0.5
TERMINAL = ("settle", "release", "expire")


def stored(events_db: Path) -> list[tuple[str, str, str, int]]:
    """Event id, kind, request and output tokens charged, of all usage events in the store."""
    with sqlite3.connect(events_db) as store:
        rows = store.execute(
            "SELECT event_id, kind, request_id, usage FROM events"
            " WHERE kind IN ('settle', 'release', 'expire', 'settle_late')"
        ).fetchall()
    return [
        (
            event_id,
            kind,
            request_id,
            sum(orjson.loads(usage).get(u, 0) for u in ("output", "reasoning")),
        )
        for event_id, kind, request_id, usage in rows
    ]


@pytest.mark.slow
@pytest.mark.timeout(180 + 15 * KILLS)
async def test_after_kills_nothing_is_lost_doubled_or_given_away(tmp_path: Path) -> None:
    keys = ["sk-a", "sk-b", "sk-c"]
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
        assert sim.provider.served.totals()["repeated_ids"] == 0, "a POST was sent twice"

    assert len(report.kills) == KILLS
    assert any(kill.name.startswith("worker") for kill in report.kills)
    assert report.result.sent == sum(report.result.endings.values())

    verify = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway.cli", "verify", "--json", "--config", str(config)],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert verify.returncode == 0, verify.stdout.decode() + verify.stderr.decode()
    verified = orjson.loads(verify.stdout)
    assert verified["clean"] is True
    assert verified["holds"] == 0

    events = stored(tmp_path / "data" / "events.db")
    ids = Counter(event_id for event_id, *_ in events)
    assert max(ids.values()) == 1
    ends = Counter(request_id for _, kind, request_id, _ in events if kind in TERMINAL)
    assert set(ends.values()) == {1}, "one terminal event for each reservation"
    served = {row.request_id for row in report.served}
    assert served <= set(ends), "every request that the upstream saw has its event"

    charged: dict[str, int] = defaultdict(int)
    for _, _, request_id, tokens in events:
        charged[request_id] += tokens
    bounds = report.most_uncharged_tokens()
    over = {
        request_id: gap
        for request_id, gap in report.uncharged(charged).items()
        if not 0 <= gap <= bounds.get(request_id, 0)
    }
    assert over == {}, f"more was served than charged than a kill explains: {_about(report, over)}"


def _about(report: ChaosReport, over: Mapping[str, int]) -> list[object]:
    """What the provider and the client saw of these requests."""
    clients = {outcome.request_id: outcome for outcome in report.result.outcomes}
    return [(row, clients.get(row.client_id)) for row in report.served if row.request_id in over]
