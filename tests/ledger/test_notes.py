"""Entries about changes that move no balance: what `note` writes, how often, and what a repair makes of it."""

import struct
from pathlib import Path

import pytest
import redis.asyncio

from gateway.domain.delivery import Place
from gateway.domain.events import Event
from gateway.domain.reservation import TOMBSTONE_TTL_MS
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.ledger.client.errors import ShardClosed
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.notes import EVERYONE_SHARD
from gateway.ledger.outbox import Outbox
from tests.ledger.bench import Bench
from tests.ledger.raw import NAMES, Raw
from tests.ledger.test_repair import Shop, prepare
from tests.support.loose_ledger import LooseLedger

CREATED = {"actor": "token:tok_1", "action": "key.create", "subject": "k9"}


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


async def test_a_note_writes_one_entry_and_moves_nothing(raw: Raw) -> None:
    account = await raw.client.get(NAMES["account"])
    assert await raw("note", facts=b"who") == ["noted", 1, 2, 0]
    assert (await raw.events())[2:] == [
        ("1-2", ["audit", "r1", raw.now, 0, 0, False, 0, [], []], b"who")
    ]
    assert await raw.shard() == [1, 0, 0, 1, 2, -1, 0]
    assert await raw.client.get(NAMES["account"]) == account


async def test_a_repeated_note_answers_as_the_first_and_writes_nothing(raw: Raw) -> None:
    await raw("note")
    await raw("grant", id="g9")
    before = await raw.dump()
    assert await raw("note", facts=b"other") == ["noted", 1, 2, 1]
    assert await raw.dump() == before
    assert await raw.client.get(NAMES["noted"]) == struct.pack("<dd", 1, 2)
    ttl_ms = await raw.client.pttl(NAMES["noted"])
    assert TOMBSTONE_TTL_MS - 60_000 < ttl_ms <= TOMBSTONE_TTL_MS


async def test_the_first_note_makes_the_shard(valkey: redis.asyncio.Redis) -> None:
    raw = Raw(valkey)
    assert await raw("note") == ["noted", 1, 0, 0]
    assert await raw.shard() == [1, 0, 0, 1, 0, -1, 0]
    assert not await valkey.exists(NAMES["account"], NAMES["customers"])
    assert await raw("account", rev=1) == ["updated", 1, 0, 1, 1]


async def test_a_note_stands_in_the_customers_shard_or_in_that_of_everyone(
    valkey: redis.asyncio.Redis,
) -> None:
    ledger, keys = LooseLedger(Bench(valkey).runner, shard_count=8), Keys("cg", 8)
    assert keys.shard_of("acme") not in (EVERYONE_SHARD, 5)
    assert await ledger.note("n1", CREATED, "acme")
    assert await ledger.note("n2", CREATED)
    assert await ledger.note("n3", CREATED, shard=5)
    assert not await ledger.note("n3", CREATED, shard=5)
    outbox = Outbox(valkey, 8)
    found = {}
    for shard in range(8):
        for entry in await outbox.scan(shard, Place(1, 99)):
            assert isinstance(entry, Event)
            assert (entry.kind, entry.facts, entry.amount_nano) == ("audit", CREATED, 0)
            found[entry.event_id] = (shard, entry.customer_id)
    assert found == {
        "n1": (keys.shard_of("acme"), "acme"),
        "n2": (EVERYONE_SHARD, ""),
        "n3": (5, ""),
    }


async def test_what_a_note_wrote_is_known_lost_when_the_server_goes_back(
    valkey: redis.asyncio.Redis,
) -> None:
    bench = await Bench(valkey).open()
    await bench.ledger.note("n1", CREATED, "acme")
    await valkey.setrange("{cg:0}:meta", 12, struct.pack("<d", 1))
    with pytest.raises(ShardClosed) as caught:
        await bench.ledger.note("n2", CREATED, "acme")
    assert caught.value.word == "went_back"


async def test_a_lost_note_is_done_again_by_a_repair_and_needs_no_wallet(
    valkey: redis.asyncio.Redis, tmp_path: Path
) -> None:
    shop = Shop(valkey, tmp_path)
    await prepare(shop)
    before = await shop.money()
    await shop.bench.ledger.note("n1", CREATED)
    await shop.bench.ledger.note("n2", CREATED, "nobody")
    await shop.bench.ledger.note("n3", CREATED, "acme")
    await shop.deliver()
    assert await shop.drifts() == []
    await shop.restore()
    done = await shop.reopen()
    assert done is not None
    assert (done.applied, done.kept, done.not_applied) == (3, 0, [])
    assert await shop.money() == before
    assert await valkey.smembers("{cg:0}:customers") == {b"acme"}
    assert not await valkey.exists("{cg:0}:a:", "{cg:0}:a:nobody")
    assert await shop.drifts() == []
    assert not await shop.bench.ledger.note("n2", CREATED, "nobody")
    tombstone = await valkey.get("{cg:0}:n:n2")
    with SqliteStore.at(shop.path) as store:
        stored = store.event("n2")
    assert stored is not None
    assert tombstone == struct.pack("<dd", stored.event.epoch, stored.event.seq)
    ttl_ms = await valkey.pttl("{cg:0}:n:n2")
    assert TOMBSTONE_TTL_MS - 60_000 < ttl_ms <= TOMBSTONE_TTL_MS


async def test_a_note_that_the_store_lacks_gets_a_new_place(
    valkey: redis.asyncio.Redis, tmp_path: Path
) -> None:
    shop = Shop(valkey, tmp_path)
    await prepare(shop)
    await shop.bench.ledger.note("n1", CREATED)
    await shop.deliver()
    await shop.restore()
    await Bench(valkey).ledger.note("n2", CREATED)  # by a process that did not know of the loss
    assert await shop.bench.ledger.freeze(0, Place(1, 3), conflict=True)
    done = await shop.reopen()
    assert done is not None
    assert (done.epoch, done.applied, done.kept) == (2, 1, 1)
    await shop.deliver()
    assert await shop.drifts() == []
