"""What a sink asks of its follower: larger batches, and to hold its cursor back."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import redis.asyncio

from gateway.exporter.sinks.options_parquet import ParquetOptions
from gateway.exporter.sinks.options_stripe import StripeOptions
from gateway.exporter.sinks.parquet import ParquetSink
from gateway.exporter.sinks.stripe import StripeSink
from tests.support.billing_standins import running
from tests.support.outbox_writer import OutboxWriter
from tests.support.stores import sqlite_sink
from tests.support.stripe_standin import StripeStandIn
from tests.unit.exporter.test_follower import exporting
from tests.unit.exporter.test_pump import until


@pytest.fixture
def writer(valkey: redis.asyncio.Redis) -> OutboxWriter:
    return OutboxWriter(valkey)


async def test_files_are_as_large_as_the_sink_wants(writer: OutboxWriter, tmp_path: Path) -> None:
    options = ParquetOptions((tmp_path / "lake").as_uri(), batch_events=400, linger_ms=60_000)
    sink = ParquetSink(options)
    async with exporting(writer, tmp_path / "events.db", {"lake": sink}) as pump:
        for _ in range(10):
            await writer.write_many(40)
            await asyncio.sleep(0.02)
        await until(lambda: pump.followers[0].tally.delivered == 400)
    dataset = ds.dataset(tmp_path / "lake", partitioning="hive")
    assert sorted(dataset.to_table().column("event_id").to_pylist()) == sorted(writer.written)
    assert len(dataset.files) == writer.shards


async def test_a_cursor_that_is_held_back_comes_again_after_a_restart(
    writer: OutboxWriter, tmp_path: Path
) -> None:
    """The events are of 2023, so their hour is over as soon as nothing more is waiting."""
    async with running(StripeStandIn()) as stripe:
        assert isinstance(stripe, StripeStandIn)
        plain = StripeOptions(
            key="sk_test_key",
            meters={"input": "llm_input"},
            customer="cus_acme",
            url=stripe.url,
            max_replay_age_ms=None,
        )
        endless = replace(plain, grace_ms=1 << 50)
        path = tmp_path / "events.db"
        first = StripeSink(endless)
        first.starts = "beginning"  # type: ignore[misc]
        async with exporting(writer, path, {"stripe": first}) as pump:
            await writer.write_many(40)
            await until(lambda: pump.followers[0].tally.delivered == 40)
        assert stripe.metered == []
        store = sqlite_sink(path)
        await store.open()
        assert all(place.seq == -1 for place in (await store.sink_cursors("stripe")).values())
        await store.close()
        async with exporting(writer, path, {"stripe": StripeSink(plain)}):
            await writer.write_many(40)
            await until(lambda: sum(each.value for each in stripe.metered) == 80 * 12)
        assert stripe.repeats == []
