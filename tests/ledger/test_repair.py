"""A shard that lost a tail is brought back from the store: every wallet as it was, to the unit."""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.delivery import START, DeadLetter, Place
from gateway.domain.event_rows import row_of
from gateway.domain.events import Event
from gateway.domain.limits import Limit
from gateway.domain.reservation import Account, Denied
from gateway.exporter.sink import Batch
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.ledger.audit import Audit
from gateway.ledger.client.errors import LedgerUnavailable, ShardClosed
from gateway.ledger.losses import Losses
from gateway.ledger.outbox import Outbox
from gateway.operations.reapplying import Desk, Manner, OnLoss, Reopened
from gateway.operations.reopen import ledger_status, reopen
from gateway.operations.verify import verify
from tests.ledger.bench import NOON_MS, Bench
from tests.support.outbox_entries import read_entries
from tests.support.stores import sqlite_sink

DAY_MS = 86_400_000
MAX_GRANTS = 64
Step = Callable[[Bench], Awaitable[object]]


class Shop:
    """One shard, its store, and a copy of the ledger to go back to."""

    def __init__(self, client: redis.asyncio.Redis, folder: Path) -> None:
        self.bench = Bench(client)
        self.client = self.bench.client
        self.outbox = Outbox(client, 1)
        self.sink = sqlite_sink(folder / "events.db")
        self.path = folder / "events.db"
        self.losses = Losses(client, self.bench.ledger.keys)
        self.copy: dict[bytes, bytes] = {}

    async def deliver(self) -> None:
        """What the outbox holds is in the store, and trimmed."""
        cursors = await self.sink.open()
        for shard, entries in await read_entries(self.outbox, {0: cursors.get(0, START)}):
            events = [entry for entry in entries if isinstance(entry, Event)]
            end = Place(entries[-1].epoch, entries[-1].seq)
            written = await self.sink.write(
                Batch([row_of(event) for event in events], {shard: end})
            )
            assert not written.failed
            await self.bench.ledger.ack(shard, *end)
        await self.sink.close()

    async def keep(self) -> None:
        keys = [key async for key in self.client.scan_iter()]
        self.copy = {key: await self.client.dump(key) for key in keys}

    async def restore(self) -> None:
        """The server comes back with an older copy."""
        await self.client.flushdb()
        for key, value in self.copy.items():
            await self.client.restore(key, 0, value)

    def desk(self, store: SqliteStore) -> Desk:
        return Desk(
            self.bench.ledger.repair,
            Audit(self.client, self.bench.ledger.keys),
            self.outbox,
            store,
            self.losses,
        )

    async def reopen(self, on_loss: OnLoss = "stop") -> Reopened | None:
        with SqliteStore.at(self.path) as store:
            return await reopen(self.desk(store), 0, Manner(on_loss))

    async def drifts(self) -> list[str]:
        with SqliteStore.at(self.path) as store:
            audit = Audit(self.client, self.bench.ledger.keys)
            found = await verify(audit, self.outbox, store)
        return [f"{drift.identity} {drift.subject}: {drift.message}" for drift in found.drifts]

    async def money(self) -> object:
        """All of the wallet that the store vouches for."""
        wallet = await self.bench.wallet()
        return (
            [
                (g.no, g.category, g.priority, g.scope_bits, g.remaining_nano, g.expires_at_ms)
                for g in wallet.grants
                if g.remaining_nano
            ],
            wallet.overdraft_nano,
            wallet.granted_nano,
            wallet.settled_nano,
            wallet.expired_nano,
            wallet.voided_nano,
            wallet.adjusted_nano,
            wallet.next_grant_no,
            (wallet.account_rev, wallet.credit_limit_nano, wallet.frozen, wallet.billing_day),
            [(a.allowance_id, a.end_ms, a.grant_no, a.carry_nano) for a in wallet.allowances],
        )


@pytest.fixture
async def shop(valkey: redis.asyncio.Redis, tmp_path: Path) -> Shop:
    return Shop(valkey, tmp_path)


async def settle(bench: Bench) -> None:
    await bench.settle("s1", 40)


async def overspend(bench: Bench) -> None:
    await bench.settle("s1", 1700)
    await bench.ledger.grant("acme", "g2", 300)
    await bench.ledger.grant("acme", "g3", 500, priority=7, scope_bits=2, expires_at_ms=NOON_MS * 2)


async def end_what_the_copy_holds(bench: Bench) -> None:
    await bench.settle("pending", 30)
    await bench.release("pending2")


async def expire_and_settle_late(bench: Bench) -> None:
    bench.now += 61_000
    await bench.expire("pending")
    await bench.settle("pending", 5, reserved_at_ms=NOON_MS)


async def expire_and_give_back_to_nobody(bench: Bench) -> None:
    await bench.held("whole", 800, floor=800)
    bench.now += 61_000
    await bench.expire("whole")
    await bench.ledger.grant("acme", "g2", 9)
    await bench.settle("whole", 10, reserved_at_ms=NOON_MS)


async def correct(bench: Bench) -> None:
    await bench.ledger.adjust("acme", "a1", -150, corrects=None, reason="test")
    await bench.ledger.adjust("acme", "a2", 70, corrects=None, reason="test", priority=9)
    await bench.settle("s1", 40)
    await bench.ledger.refund(
        "acme", "f1", "s1:settled", 30, charged_nano=40, allocations=((1, 40),), reason="test"
    )


async def correct_a_wallet_full_of_spent_grants(bench: Bench) -> None:
    for number in range(2, MAX_GRANTS + 1):
        await bench.ledger.grant("acme", f"g{number}", 1)
    await bench.settle("s1", 850 + MAX_GRANTS - 1)  # all that "pending" and "pending2" leave
    await bench.ledger.adjust("acme", "a1", 70, corrects=None, reason="test")


async def void(bench: Bench) -> None:
    await bench.ledger.grant("acme", "g2", 300)
    await bench.ledger.void("acme", "v1", 2, reason="test")


async def change_the_account(bench: Bench) -> None:
    await bench.ledger.account(
        "acme", account_rev=2, credit_limit_nano=50, frozen=True, billing_day=9
    )
    await bench.ledger.bump("acme")


async def allow(bench: Bench) -> None:
    await bench.ledger.allowance("acme", "daily", 100, period="day", rollover_max_nano=30)
    await bench.settle("s1", 20)
    bench.now += DAY_MS
    await bench.ledger.sweep("acme")
    await bench.ledger.allowance("acme", "gone", 5)
    await bench.ledger.allowance("acme", "gone", 0)


async def let_a_grant_expire(bench: Bench) -> None:
    await bench.ledger.grant("acme", "g2", 300, expires_at_ms=bench.now + 5)
    bench.now += 5
    await bench.ledger.sweep("acme")


STEPS = [
    settle,
    overspend,
    end_what_the_copy_holds,
    expire_and_settle_late,
    expire_and_give_back_to_nobody,
    correct,
    correct_a_wallet_full_of_spent_grants,
    void,
    change_the_account,
    allow,
    let_a_grant_expire,
]


async def prepare(shop: Shop) -> None:
    """Two holds that are pending, and a copy of that moment."""
    limit = Limit("customer", "spend", "total", 10_000)
    await shop.bench.open(1000, limit)
    await shop.bench.held("pending", 100, floor=10)
    await shop.bench.held("pending2", 50)
    await shop.deliver()
    await shop.keep()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
async def test_what_was_delivered_is_done_again_to_the_unit(shop: Shop, step: Step) -> None:
    await prepare(shop)
    await step(shop.bench)
    await shop.deliver()
    before, held = await shop.money(), (await shop.bench.wallet()).held_nano
    await shop.restore()
    done = await shop.reopen()
    assert done is not None
    assert (done.epoch, done.not_applied) == (2, [])
    assert done.applied > 0
    assert await shop.money() == before
    assert (await shop.bench.wallet()).held_nano == held
    assert await shop.drifts() == []
    await shop.bench.settle("after", 1, account=shop.bench.account)
    await shop.deliver()
    assert await shop.drifts() == []
    assert await shop.reopen() is None, "there is nothing left to repair"


async def lose_a_settle(shop: Shop) -> None:
    """`s1` was charged and delivered, and the ledger has lost it."""
    await prepare(shop)
    await shop.bench.settle("s1", 40)
    await shop.deliver()
    await shop.restore()


async def test_until_it_is_reopened_every_script_refuses_whoever_asks(shop: Shop) -> None:
    await lose_a_settle(shop)
    assert await shop.bench.ledger.freeze(0, Place(1, 2))
    fresh = Bench(shop.client)
    assert isinstance(await fresh.reserve("r9"), Denied)
    with pytest.raises(ShardClosed, match="shard 0 is frozen") as caught:
        await fresh.ledger.grant("acme", "g9", 5)
    assert caught.value.word == "shard_frozen"
    with pytest.raises(LedgerUnavailable, match="shard_frozen"):
        await fresh.ledger.ack(0, 1, 0)
    assert "delivery shard 0: is frozen" in " ".join(await shop.drifts())


async def test_a_settle_that_comes_again_after_the_repair_charges_nothing(shop: Shop) -> None:
    await lose_a_settle(shop)
    await shop.reopen()
    before = await shop.money()
    again = await shop.bench.settle("s1", 40)
    assert (again.outcome, again.charged_nano, again.replayed) == ("settled", 40, True)
    assert await shop.money() == before


async def test_an_operation_that_comes_again_after_the_repair_does_nothing(shop: Shop) -> None:
    await prepare(shop)
    terms: dict[str, Any] = {"category": "promotional", "priority": 3, "scope_bits": 5}
    await shop.bench.ledger.grant("acme", "g2", 300, **terms, facts={"name": "gift"})
    await shop.bench.ledger.adjust("acme", "a1", -7, corrects=None, reason="test")
    await shop.deliver()
    await shop.restore()
    await shop.reopen()
    again = await shop.bench.ledger.grant("acme", "g2", 300, **terms, facts={"name": "gift"})
    assert (again.grant_no, again.replayed) == (2, True)
    adjusted = await shop.bench.ledger.adjust("acme", "a1", -7, corrects=None, reason="test")
    assert adjusted.replayed
    audit = Audit(shop.client, shop.bench.ledger.keys)
    assert (await audit.grant_names("acme"))[2] == "gift"


async def test_what_was_written_over_the_lost_places_is_kept_at_new_ones(shop: Shop) -> None:
    """By a process that did not know of the loss, before anybody did."""
    await lose_a_settle(shop)
    unaware = Bench(shop.client)
    await unaware.settle("s2", 11)
    await unaware.settle("s3", 5)
    assert await shop.bench.ledger.freeze(0, Place(1, 3), conflict=True)
    done = await shop.reopen()
    assert done is not None
    assert (done.epoch, done.applied, done.kept) == (2, 1, 2)
    assert (await shop.bench.wallet()).settled_nano == 40 + 11 + 5
    assert await shop.drifts() == []
    await shop.deliver()
    assert await shop.drifts() == []
    with SqliteStore.at(shop.path) as store:
        assert [(e.event.event_id, e.event.epoch, e.event.seq) for e in store.latest(2)] == [
            ("s2:settled", 2, 0),
            ("s3:settled", 2, 1),
        ]


async def test_a_repair_that_was_killed_goes_on_where_it_was(shop: Shop) -> None:
    await prepare(shop)
    for number in range(5):
        await shop.bench.settle(f"s{number}", 10)
    await shop.deliver()
    before = await shop.money()
    await shop.restore()
    original, calls = shop.bench.runner.run, 0

    async def dies(script: Any, *rest: Any) -> Any:
        nonlocal calls
        calls += script.name == "reapply"
        if calls == 3:
            calls = 9
            raise LedgerUnavailable("killed here", unknown=True)
        return await original(script, *rest)

    shop.bench.runner.run = dies  # type: ignore[method-assign, assignment]
    with pytest.raises(LedgerUnavailable, match="killed here"):
        await shop.reopen()
    done = await shop.reopen()
    assert done is not None
    assert (done.epoch, done.applied) == (2, 3)
    assert await shop.money() == before
    assert await shop.drifts() == []


async def test_a_hold_that_an_older_copy_has_pays_nothing_twice(shop: Shop) -> None:
    """It holds what a later charge has spent; its end is not delivered, so it is still to come."""
    await shop.bench.open(100)
    await shop.bench.held("old", 90, floor=90)
    await shop.deliver()
    await shop.keep()
    await shop.bench.release("old")  # lost, and never delivered
    await shop.bench.settle("s1", 80)
    await shop.deliver()
    with sqlite3.connect(shop.path) as store:  # the release never came
        store.execute("DELETE FROM events WHERE event_id = 'old:released'")
    await shop.restore()
    assert await shop.reopen() is not None
    wallet = await shop.bench.wallet()
    assert (wallet.grants[0].remaining_nano, wallet.held_nano, wallet.held_credit_nano) == (
        20,
        90,
        90,
    )
    assert not await shop.bench.differences()
    shop.bench.now += 61_000
    await shop.bench.expire("old")
    wallet = await shop.bench.wallet()
    assert (wallet.settled_nano, wallet.overdraft_nano, wallet.held_nano) == (170, 70, 0)
    assert not await shop.bench.differences()


async def test_limits_stop_holding_what_the_store_says_has_ended(shop: Shop) -> None:
    limit = Limit("customer", "spend", "total", 10_000)
    await prepare(shop)
    await shop.bench.settle("pending", 30)
    await shop.deliver()
    await shop.restore()
    done = await shop.reopen()
    assert done is not None
    assert done.uncounted == set()
    [standing] = await shop.bench.store.wallets.standings(
        [Account("acme", "k1", 0, 1, limits=(limit,))]
    )
    assert (standing.used, standing.held) == (30, 50)


async def test_what_no_hold_tells_of_is_named_as_uncounted(shop: Shop) -> None:
    await lose_a_settle(shop)
    done = await shop.reopen()
    assert done is not None
    assert done.uncounted == {"acme"}


async def test_a_grant_whose_event_does_not_say_its_terms_is_named(shop: Shop) -> None:
    await prepare(shop)
    await shop.bench.ledger.grant("acme", "g2", 300)
    await shop.deliver()
    with sqlite3.connect(shop.path) as store:  # as an earlier release wrote it
        store.execute("UPDATE events SET facts = '{}' WHERE event_id = 'g2'")
    await shop.restore()
    done = await shop.reopen()
    assert done is not None
    assert (done.assumed, done.not_applied) == (["g2"], [])
    assert (await shop.bench.wallet()).granted_nano == 1300
    assert await shop.drifts() == []


async def test_a_dead_letter_of_the_store_is_named_and_kept_out(shop: Shop) -> None:
    await lose_a_settle(shop)
    await shop.sink.open()
    letter = DeadLetter(0, 1, 3, "s9:settled", "not JSON", b"")
    await shop.sink.write(Batch(ends={0: Place(1, 3)}, dead=[letter]))
    await shop.sink.close()
    done = await shop.reopen()
    assert done is not None
    assert (done.epoch, done.applied) == (None, 0)
    assert [each.event_id for each in done.not_applied] == ["s9:settled"]
    done = await shop.reopen("accept")
    assert done is not None
    assert (done.epoch, done.applied) == (2, 1)


async def test_status_tells_behind_from_frozen(shop: Shop) -> None:
    async def status() -> list[tuple[str, int]]:
        with SqliteStore.at(shop.path) as store:
            return [(each.state, each.lost) for each in await ledger_status(shop.outbox, store)]

    await prepare(shop)
    assert await status() == [("open", 0)]
    await shop.bench.settle("s1", 40)
    await shop.deliver()
    await shop.restore()
    assert await status() == [("behind", 1)]
    await shop.bench.ledger.freeze(0, Place(1, 2))
    assert await status() == [("frozen", 1)]
    await shop.reopen()
    assert await status() == [("open", 0)]


async def test_a_late_settle_after_the_repair_gives_back_to_those_who_paid(shop: Shop) -> None:
    await prepare(shop)
    shop.bench.now += 61_000
    await shop.bench.expire("pending")
    await shop.deliver()
    await shop.restore()
    await shop.reopen()
    late = await shop.bench.settle("pending", 4, reserved_at_ms=NOON_MS)
    assert (late.outcome, late.charged_nano) == ("settled_late", 4)
    (grant,) = (await shop.bench.wallet()).grants
    assert grant.remaining_nano == 996


async def test_what_was_settled_late_is_known_with_its_whole_charge_after_the_repair(
    shop: Shop,
) -> None:
    await prepare(shop)
    await expire_and_settle_late(shop.bench)
    await shop.deliver()
    await shop.restore()
    await shop.reopen()
    again = await shop.bench.settle("pending", 5, reserved_at_ms=NOON_MS)
    assert (again.outcome, again.charged_nano, again.replayed) == ("settled_late", 5, True)


async def test_a_void_that_comes_again_after_the_repair_says_what_it_took(shop: Shop) -> None:
    await prepare(shop)
    await void(shop.bench)
    await shop.deliver()
    await shop.restore()
    await shop.reopen()
    again = await shop.bench.ledger.void("acme", "v1", 2, reason="test")
    assert (again.voided_nano, again.replayed) == (300, True)


async def test_a_loosened_hold_leaves_every_grant_it_rested_on(
    valkey: redis.asyncio.Redis,
) -> None:
    bench = await Bench(valkey).open(30, credit_limit=100)
    await bench.ledger.grant("acme", "g2", 20)
    await bench.ledger.grant("acme", "g3", 10)
    await bench.held("r1", 97)
    wallet = await bench.wallet()
    assert ([g.held_nano for g in wallet.grants], wallet.held_credit_nano) == ([30, 20, 10], 37)
    assert await bench.ledger.freeze(0, Place(1, 99))
    await bench.ledger.repair.loosen(0, "acme", "r1")
    wallet = await bench.wallet()
    assert ([g.held_nano for g in wallet.grants], wallet.held_credit_nano) == ([0, 0, 0], 97)
    assert await bench.differences() == []
