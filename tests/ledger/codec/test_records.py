"""Records read back say what the scripts wrote; what is no record is refused."""

import struct

import pytest
import redis.asyncio

from gateway.domain.limits import Limit
from gateway.ledger.codec.reservation_records import Ended, HeldLimit, Reservation, read_reservation
from gateway.ledger.codec.shard_records import read_shard
from gateway.ledger.codec.unpacking import BadRecord
from gateway.ledger.codec.wallet_records import read_scope, read_wallet
from tests.ledger.bench import NOON_MS, Bench


@pytest.fixture
async def bench(valkey: redis.asyncio.Redis) -> Bench:
    return Bench(valkey)


async def test_a_wallet_reads_back_whole(bench: Bench) -> None:
    await bench.open(1000, Limit("customer", "spend", "day", 500), credit_limit=70)
    await bench.ledger.grant(
        "acme", "g2", 50, category="promotional", priority=3, scope_bits=5,
        effective_at_ms=NOON_MS + 5, expires_at_ms=NOON_MS + 9,
    )  # fmt: skip
    await bench.held("r1", 100)
    await bench.ledger.adjust("acme", "a1", -30, corrects=None, reason="test")
    wallet = await bench.wallet()
    assert (wallet.frozen, wallet.account_rev, wallet.credit_limit_nano) == (False, 1, 70)
    assert (wallet.granted_nano, wallet.adjusted_nano, wallet.next_grant_no) == (1050, -30, 3)
    assert (wallet.held_nano, wallet.held_credit_nano, wallet.open_reservations) == (100, 0, 1)
    promotional, paid = wallet.grants
    assert (promotional.no, promotional.category, promotional.priority) == (2, "promotional", 3)
    assert (promotional.scope_bits, promotional.remaining_nano) == (5, 50)
    assert (promotional.effective_at_ms, promotional.expires_at_ms) == (NOON_MS + 5, NOON_MS + 9)
    assert (paid.category, paid.remaining_nano, paid.held_nano) == ("paid", 970, 100)
    assert paid.created_at_ms == NOON_MS
    (counter,) = wallet.counters
    assert (counter.held, counter.used, counter.window_start_ms) == (100, 0, NOON_MS - 43_200_000)
    assert wallet.balance_nano(NOON_MS) == 970
    assert [wallet.available_nano(NOON_MS + at, 4) for at in (4, 5, 8, 9)] == [940, 990, 990, 940]
    assert wallet.available_nano(NOON_MS + 5, 2) == 940


async def test_a_reservation_reads_back_whole(bench: Bench) -> None:
    limit = Limit("key", "tokens", "hour", 500)
    await bench.open(60, limit, credit_limit=70)
    await bench.held("r1", 100, floor=20, tokens=33, scope_bits=6)
    reservation = await bench.reservation("r1")
    assert reservation == Reservation(
        held_nano=100,
        reserved_at_ms=NOON_MS,
        deadline_ms=NOON_MS + 60_000,
        extend_no=0,
        tokens=33,
        scope_bits=6,
        allocations=((1, 60), (0, 40)),
        limits=(HeldLimit("key", "tokens", limit.counter_id, NOON_MS, 500, 33),),
        units=("input", "output"),
        rates_pico={"input": 1000, "output": 2000},
        estimate={"input": 100},
        checkpoint={"input": 20},
        customer_id="acme",
        key_id="k1",
        project_id="team",
        facts=bench.facts,
    )
    assert "customer_id='acme'" in repr(reservation)
    assert "facts" not in repr(reservation)


async def test_tombstones_and_shards_read_back(bench: Bench) -> None:
    await bench.open(1000)
    await bench.held("r1", 100)
    bench.now += 5
    await bench.settle("r1", 40)
    ended = read_reservation(await bench.client.get("{cg:0}:r:r1"))
    assert ended == Ended("settled", 40, 100, NOON_MS, NOON_MS + 5, 1, 2, quantities=(40, 0))
    shard = read_shard(await bench.client.get("{cg:0}:meta"))
    assert (shard.frozen, shard.last, shard.acked) == (False, (1, 2), None)
    await bench.ledger.ack(0, 1, 1)
    assert read_shard(await bench.client.get("{cg:0}:meta")).acked == (1, 1)


@pytest.mark.parametrize("read", [read_shard, read_wallet, read_scope, read_reservation])
@pytest.mark.parametrize("record", [b"", b"\x01", b"\x09" * 200])
def test_what_is_no_record_is_refused(read: object, record: bytes) -> None:
    assert callable(read)
    with pytest.raises(BadRecord):
        read(record)


async def test_a_record_cut_short_is_refused(bench: Bench) -> None:
    await bench.open(1000, Limit("customer", "spend", "day", 500))
    await bench.held("r1")
    wallet = await bench.client.get("{cg:0}:a:acme")
    with pytest.raises(BadRecord, match="ends early"):
        read_wallet(wallet[:-1])
    hold = await bench.client.get("{cg:0}:r:r1")
    with pytest.raises(BadRecord):
        read_reservation(hold[:90])
    assert len(wallet) == struct.calcsize("<8B14dBBHI6dI3d")
