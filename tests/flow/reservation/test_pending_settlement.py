"""An ending survives the journal as it is, and ends its reservation whoever sends it."""

from pathlib import Path

import msgpack
import pytest
import redis.asyncio

from gateway.domain.reservation import Account
from gateway.flow.reservation.pending_settlement import PendingSettlement
from gateway.ledger.codec.calls import ReleaseCall, SettleCall
from tests.flow.desk import Desk


def ending(verb: str, desk: Desk, run_id: str, reserved_at_ms: int) -> PendingSettlement:
    facts = msgpack.packb({"customer_id": "acme", "key_id": "k1"})
    if verb == "release":
        return PendingSettlement(desk.account, ReleaseCall(run_id, facts, reserved_at_ms))
    prices = desk.bank.prices
    used = prices.vector({"input": 3, "output": 5})
    call = SettleCall(run_id, prices, used, facts, 8, reserved_at_ms)
    return PendingSettlement(desk.account, call)


@pytest.mark.parametrize("verb", ["settle", "release"])
async def test_an_ending_that_was_on_disk_does_what_the_first_would_have_and_only_once(
    valkey: redis.asyncio.Redis, tmp_path: Path, verb: str
) -> None:
    desk = await Desk(valkey, tmp_path).open()
    run = await desk.run()
    made = ending(verb, desk, run.hold.reservation_id, run.hold.reserved_at_ms)
    packed = msgpack.packb(made.as_record())
    read = PendingSettlement.from_record(msgpack.unpackb(packed))
    first = await read.send(desk.ledger.reservations)
    assert (first.outcome, first.replayed) == (f"{verb}d", False)
    assert first.charged_nano == ((3 * 2000 + 5 * 5500 + 999) // 1000 if verb == "settle" else 0)
    again = await made.send(desk.ledger.reservations)
    assert (again.replayed, again.charged_nano) == (True, first.charged_nano)
    await desk.journal.close()


async def test_a_record_says_nothing_of_what_the_account_may_do(
    valkey: redis.asyncio.Redis, tmp_path: Path
) -> None:
    desk = await Desk(valkey, tmp_path).open()
    record = ending("settle", desk, "r1", 1).as_record()
    account = PendingSettlement.from_record(record).account
    assert account == Account("acme", "k1", desk.account.shard, account_rev=0)
    await desk.journal.close()


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(KeyError):
        PendingSettlement.from_record({"verb": "settle"})
