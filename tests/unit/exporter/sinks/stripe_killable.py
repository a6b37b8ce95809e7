"""Feeds a Stripe sink as the exporter does, to be killed: `stripe_killable.py URL CURSORS SEED [finish]`.

Events are the same in every process. CURSORS is a file that is replaced after each batch; with `finish` the feed
ends when all events were delivered.
"""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.sink import Batch
from gateway.exporter.sinks.options_stripe import StripeOptions
from gateway.exporter.sinks.stripe import StripeSink
from tests.unit.exporter.sinks.contract import make_row

SHARDS = 3
EACH = 400
MINUTE_MS = 60_000


def events(shard: int) -> list[EventRow]:
    """Of one shard: about a minute apart, now and then a little back in time, two customers."""
    chance = random.Random(shard)
    moment_ms = 1_700_000_000_000
    found = []
    for seq in range(EACH):
        moment_ms += chance.randrange(2 * MINUTE_MS)
        back = chance.choice([0, 0, 0, 3_000])
        facts = {"tags": {"stripe_customer_id": chance.choice(["cus_acme", "cus_zeta"])}}
        usage = {"input": chance.randrange(1, 1000)}
        found.append(
            make_row(seq, shard, occurred_at_ms=moment_ms - back, usage=usage, facts=facts)
        )
    return found


def options(url: str) -> StripeOptions:
    return StripeOptions(
        key="sk_test_key", meters={"input": "llm_input"}, url=url, max_replay_age_ms=None
    )


def read_noted(cursors: Path) -> dict[str, int]:
    noted: dict[str, int] = json.loads(cursors.read_text()) if cursors.exists() else {}
    return noted


async def main(url: str, cursors: Path, seed: int, finish: bool) -> None:
    chance = random.Random(seed)
    sink = StripeSink(options(url))
    await sink.open()
    rows = {shard: events(shard) for shard in range(SHARDS)}
    noted = read_noted(cursors)
    fed = {shard: noted.get(str(shard), -1) for shard in range(SHARDS)}
    stored = dict(fed)
    while True:
        batch_rows, begins, ends = [], {}, {}
        for shard in range(SHARDS):
            begins[shard] = Place(1, fed[shard])
            count = chance.randrange(60)
            batch_rows += rows[shard][fed[shard] + 1 : fed[shard] + 1 + count]
            fed[shard] = min(fed[shard] + count, EACH - 1)
            ends[shard] = Place(1, fed[shard])
        if chance.random() < 0.2 and not finish:
            loop = asyncio.get_running_loop()
            loop.call_later(chance.random() * 0.02, os.kill, os.getpid(), signal.SIGKILL)
        written = await sink.write(Batch(batch_rows, ends, begins=begins))
        if chance.random() < 0.15 and not finish:
            os.kill(os.getpid(), signal.SIGKILL)  # sent, and the cursor not noted
        assert written.reached is not None
        assert not written.failed
        stored |= {shard: place.seq for shard, place in written.reached.items()}
        aside = cursors.with_suffix(".new")
        aside.write_text(json.dumps(stored))
        aside.replace(cursors)
        if all(seq == EACH - 1 for seq in stored.values()):
            return


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] != []))
