"""Reading the outbox: order, cursors, what cannot be read."""

from pathlib import Path

import msgpack
import pytest
import redis.asyncio

from gateway.domain.delivery import DeadLetter, Place
from gateway.domain.events import Event
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.outbox_entries import decode_entry
from gateway.ledger.outbox import Outbox
from tests.support.outbox_entries import read_entries
from tests.support.outbox_writer import OutboxWriter


@pytest.fixture
def writer(valkey: redis.asyncio.Redis) -> OutboxWriter:
    return OutboxWriter(valkey)


@pytest.fixture
def outbox(valkey: redis.asyncio.Redis) -> Outbox:
    return Outbox(valkey, 4)


async def test_stamp_and_facts_are_joined_into_an_event(
    writer: OutboxWriter, outbox: Outbox
) -> None:
    await writer.write(2, event_id="r1:settled", facts={"model": "m", "tags": {"team": "x"}})
    ((shard, (event,)),) = await read_entries(outbox, {})
    assert event == Event(
        kind="settle",
        event_id="r1:settled",
        shard=2,
        epoch=1,
        seq=0,
        occurred_at_ms=1_700_000_000_000,
        customer_id="acme",
        amount_nano=700,
        balance_nano=5000,
        estimated_amount_nano=1000,
        cost_nano=None,
        allocations=((1, 700),),
        usage={"input": 12, "output": 5},
        price_version="p_1",
        facts={"request_id": "r1", "model": "m", "tags": {"team": "x"}},
    )
    assert shard == 2


async def test_a_stamp_packed_by_lua_reads_the_same(
    valkey: redis.asyncio.Redis, outbox: Outbox
) -> None:
    """cmsgpack writes whole doubles as integers and an empty table as an empty array."""
    await valkey.eval(
        "redis.call('XADD', KEYS[1], '1-*', 's', cmsgpack.pack({'adjust', 'op1', 1.7e12, -9e15,"
        " 0, false, 2.0, {}, {}}), 'f', ARGV[1])",
        1,
        "{cg:0}:out",
        msgpack.packb({"customer_id": "acme"}),
    )
    ((_, (event,)),) = await read_entries(outbox, {})
    assert isinstance(event, Event)
    assert (event.amount_nano, event.allocations, event.usage) == (-9_000_000_000_000_000, (), {})


async def test_reading_goes_on_after_each_shards_place(
    writer: OutboxWriter, outbox: Outbox
) -> None:
    await writer.write_many(12)
    tails = dict(await read_entries(outbox, {0: Place(1, 1), 1: Place(1, 2)}))
    assert {shard: [entry.seq for entry in entries] for shard, entries in tails.items()} == {
        0: [2],
        2: [0, 1, 2],
        3: [0, 1, 2],
    }


async def test_reading_from_before_an_epoch_begins_at_its_first_entry(
    writer: OutboxWriter, outbox: Outbox
) -> None:
    await writer.write()
    await writer.place(0, Place(2, -1))
    await writer.write()
    ((_, entries),) = await read_entries(outbox, {0: Place(2, -1)})
    assert [(entry.epoch, entry.seq) for entry in entries] == [(2, 0)]


async def test_reading_in_small_steps_sees_every_entry_once(
    writer: OutboxWriter, outbox: Outbox
) -> None:
    written = await writer.write_many(50)
    at: dict[int, Place] = {}
    seen: list[str | None] = []
    while tails := await read_entries(outbox, at, limit=8):
        for shard, entries in tails:
            at[shard] = Place(entries[-1].epoch, entries[-1].seq)
            seen += [entry.event_id for entry in entries]
    assert sorted(filter(None, seen)) == sorted(written)


async def test_idle_shards_cost_one_command(valkey: redis.asyncio.Redis, outbox: Outbox) -> None:
    await valkey.config_resetstat()
    assert await read_entries(outbox, {}) == []
    calls = {name: stats["calls"] for name, stats in (await valkey.info("commandstats")).items()}
    assert calls.get("cmdstat_xread") == 1
    assert "cmdstat_xrange" not in calls


ACME = msgpack.packb({"customer_id": "acme"})


def stamp(**changed: object) -> bytes:
    good = {"kind": "settle", "id": "e", "at": 1, "amount": 1, "held": 1, "cost": 1, "balance": 1}
    lists: dict[str, object] = {"allocations": [], "usage": []}
    packed: bytes = msgpack.packb(list({**good, **lists, **changed}.values()))
    return packed


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"s", b"\xc1", b"f", ACME],
        [b"s", msgpack.packb(["settle"]), b"f", ACME],
        [b"s", stamp(kind="melt"), b"f", ACME],
        [b"s", stamp(amount=1.5), b"f", ACME],
        [b"s", stamp(amount=9_000_000_000_000_001), b"f", ACME],
        [b"s", stamp(allocations=[1]), b"f", ACME],
        [b"s", stamp(usage=[250, 1]), b"f", ACME],
        [b"s", stamp(), b"f", msgpack.packb({})],
        [b"s", stamp(), b"f", msgpack.packb([])],
    ],
    ids=[
        "empty",
        "no msgpack",
        "short",
        "kind",
        "float",
        "too large",
        "odd list",
        "unit",
        "nobody",
        "no map",
    ],
)
def test_what_cannot_be_read_is_a_dead_letter_at_its_place(fields: list[bytes]) -> None:
    entry = decode_entry(3, b"2-17", fields)
    assert isinstance(entry, DeadLetter)
    assert (entry.shard, entry.epoch, entry.seq) == (3, 2, 17)
    assert entry.reason.startswith("unreadable")
    assert msgpack.unpackb(entry.payload, raw=True) == fields


def test_the_good_stamp_of_these_tests_is_readable() -> None:
    assert isinstance(decode_entry(0, b"1-0", [b"s", stamp(), b"f", ACME]), Event)


async def test_scan_pages_through_what_is_not_trimmed_up_to_a_place(
    writer: OutboxWriter, outbox: Outbox
) -> None:
    for _ in range(6):
        await writer.write()
    await writer.ack(0, 1, 1)
    assert [entry.seq for entry in await outbox.scan(0, Place(1, 4))] == [2, 3, 4]
    assert await outbox.scan(0, Place(1, -1)) == []


async def test_heads_say_how_far_each_shard_is(writer: OutboxWriter, outbox: Outbox) -> None:
    await writer.write(1)
    await writer.write(1)
    await writer.ack(1, 1, 0)
    heads = await outbox.heads()
    assert (heads[1].last, heads[1].acked) == (Place(1, 1), Place(1, 0))
    assert (heads[0].last, heads[0].acked) == (Place(1, -1), None)


async def test_a_ledger_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    client = Endpoint.from_socket(tmp_path / "none").client(name="test")
    with pytest.raises(LedgerUnavailable):
        await read_entries(Outbox(client, 4), {})
    with pytest.raises(LedgerUnavailable):
        await Outbox(client, 4).heads()
    await client.aclose()
