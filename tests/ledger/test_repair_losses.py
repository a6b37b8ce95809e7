"""A shard that cannot be restored completely opens all the same; what is lost is shut, noted and listed."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis.asyncio

from gateway.domain.delivery import DeadLetter, Place
from gateway.exporter.sink import Batch
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.scripts import Script
from gateway.ledger.codec.shard_records import LostRange
from gateway.operations.reapplying import Manner, RepairGivenUp
from gateway.operations.reopen import reopen
from tests.ledger.test_repair import Shop, lose_a_settle, prepare


@pytest.fixture
async def shop(valkey: redis.asyncio.Redis, tmp_path: Path) -> Shop:
    return Shop(valkey, tmp_path)


async def settled_nano(shop: Shop, customer_id: str) -> tuple[int, bool]:
    wallet = (await shop.bench.store.wallets.read([customer_id]))[customer_id]
    return wallet.granted_nano, wallet.frozen


async def two_wallets(shop: Shop) -> None:
    """`acme` was charged and `other` got credit, both delivered and lost; `acme`'s wallet is gone."""
    await shop.bench.ledger.account("other", account_rev=1)
    await prepare(shop)
    await shop.bench.settle("s1", 40)
    await shop.bench.ledger.grant("other", "g9", 77)
    await shop.bench.settle("s2", 5)
    await shop.deliver()
    await shop.restore()
    await shop.client.delete("{cg:0}:a:acme")


async def test_an_event_that_cannot_be_replayed_shuts_its_wallet_and_no_other(shop: Shop) -> None:
    await two_wallets(shop)
    done = await shop.reopen("shut")
    assert done is not None
    assert (done.epoch, done.applied) == (2, 1)
    assert [each.event_id for each in done.not_applied] == ["s1:settled", "s2:settled"]
    assert set(done.shut) == {"acme"}
    assert "s1:settled cannot be replayed: unknown account" in done.shut["acme"]
    assert await settled_nano(shop, "other") == (77, False)
    assert await settled_nano(shop, "acme") == (0, True)
    [(name, (shard, why))] = (await shop.losses.shut_wallets()).items()
    assert (name, shard, why.event_id, why.noted) == ("acme", 0, "s2:settled", False)


async def test_an_event_whose_facts_are_incomplete_shuts_its_wallet(shop: Shop) -> None:
    await prepare(shop)
    await shop.bench.ledger.allowance("acme", "monthly", 5)
    await shop.deliver()
    with sqlite3.connect(shop.path) as store:
        store.execute("UPDATE events SET facts = '{}' WHERE kind = 'allowance'")
    await shop.restore()
    done = await shop.reopen("shut")
    assert done is not None
    assert done.epoch == 2
    assert "its facts do not say what it did" in done.shut["acme"]


@pytest.mark.parametrize("kept", ["row", "entry", "nothing"])
async def test_a_dead_letter_shuts_the_wallet_that_it_names(shop: Shop, kept: str) -> None:
    await lose_a_settle(shop)
    facts = msgpack.packb({"customer_id": "acme"})
    payload = {
        "row": json.dumps({"customer_id": "acme"}).encode(),
        "entry": msgpack.packb([b"s", b"broken", b"f", facts]),
        "nothing": b"\xc1",
    }[kept]
    await shop.sink.open()
    letter = DeadLetter(0, 1, 3, "s9:settled", "not JSON", payload)
    await shop.sink.write(Batch(ends={0: Place(1, 3)}, dead=[letter]))
    await shop.sink.close()
    done = await shop.reopen("shut")
    assert done is not None
    assert (done.epoch, done.applied) == (2, 1)
    assert [each.event_id for each in done.not_applied] == ["s9:settled"]
    assert (await shop.bench.wallet()).frozen == (kept != "nothing")


async def test_a_wallet_that_differs_from_its_events_is_shut_until_someone_thaws_it(
    shop: Shop,
) -> None:
    await lose_a_settle(shop)
    wallet_key = "{cg:0}:a:acme"
    record = bytearray(await shop.client.get(wallet_key))
    record[64:72] = record[56:64]  # settled becomes what was granted
    await shop.client.set(wallet_key, bytes(record))
    done = await shop.reopen("shut")
    assert done is not None
    assert (done.epoch, done.not_applied, done.checked) == (2, [], True)
    assert "the wallet differs from its events" in done.shut["acme"]
    assert (await shop.bench.wallet()).frozen
    await shop.losses.mark_thawed("acme")
    await shop.bench.ledger.account("acme", account_rev=9)
    await shop.deliver()
    await shop.bench.ledger.freeze(0, Place(2, 99))
    done = await shop.reopen("shut")
    assert done is not None
    assert done.shut == {}, "an operator has looked at it"
    assert not (await shop.bench.wallet()).frozen


async def test_entries_that_a_gate_has_seen_and_that_are_nowhere_are_noted_as_lost(
    shop: Shop,
) -> None:
    await lose_a_settle(shop)  # the store has 1-2
    assert await shop.bench.ledger.freeze(0, Place(1, 4))
    assert await shop.bench.ledger.freeze(0, Place(1, 7))
    assert await shop.bench.ledger.freeze(0, Place(1, 5))
    assert (await shop.losses.losses())[0].seen == Place(1, 7)
    done = await shop.reopen("shut")
    assert done is not None
    assert done.lost == LostRange(Place(1, 2), Place(1, 7))
    assert str(done.lost) == "1-3 … 1-7"
    loss = (await shop.losses.losses())[0]
    assert (loss.seen, loss.lost, loss.epoch) == (None, done.lost, 2)
    assert await shop.drifts() == []
    await shop.bench.ledger.freeze(0, Place(2, 99), conflict=True)
    again = await shop.reopen("shut")
    assert again is not None
    assert again.lost == LostRange(Place(2, -1), Place(2, 99))


async def test_nothing_is_noted_as_lost_where_the_store_has_all_that_was_seen(shop: Shop) -> None:
    await lose_a_settle(shop)
    done = await shop.reopen("shut")
    assert done is not None
    assert done.lost is None
    assert (await shop.losses.losses())[0].lost is None


async def test_a_new_epoch_is_above_all_that_was_ever_seen(shop: Shop) -> None:
    """An epoch that began and was lost again must not begin a second time: gates know its entries."""
    await lose_a_settle(shop)
    await shop.bench.ledger.freeze(0, Place(6, 3))
    done = await shop.reopen("shut")
    assert done is not None
    assert done.epoch == 7


async def test_a_shard_that_has_all_of_the_store_and_lost_what_came_after_opens(shop: Shop) -> None:
    """The store's last entries are still in the outbox, because the acknowledgement was lost."""
    await prepare(shop)
    await shop.bench.settle("s1", 40)
    await shop.keep()
    await shop.deliver()
    await shop.restore()
    assert await shop.bench.ledger.freeze(0, Place(1, 9))
    done = await shop.reopen()
    assert done is not None
    assert (done.epoch, done.applied, done.kept) == (2, 0, 0)
    assert done.lost == LostRange(Place(1, 2), Place(1, 9))
    assert await shop.drifts() == []


class Interrupted:
    """A runner that does something before the nth call of a script."""

    def __init__(self, shop: Shop, at: int, verb: str = "") -> None:
        self.original = shop.bench.runner.run
        self.at = at
        self.verb = verb
        self.calls = 0
        shop.bench.runner.run = self  # type: ignore[method-assign]

    async def before(self) -> None:
        raise LedgerUnavailable("killed here", unknown=True)

    async def __call__(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> Any:
        if not self.verb or script.name == self.verb:
            self.calls += 1
            if self.calls == self.at:
                await self.before()
        return await self.original(script, keys, args)


@pytest.mark.parametrize("at", range(1, 9))
async def test_a_repair_that_is_killed_before_any_call_converges(shop: Shop, at: int) -> None:
    await two_wallets(shop)
    runner = Interrupted(shop, at)
    with pytest.raises(LedgerUnavailable, match="killed here"):
        await shop.reopen("shut")
    done = await shop.reopen("shut")
    assert done is not None
    assert done.epoch == 2
    assert runner.calls > at
    assert await settled_nano(shop, "other") == (77, False)
    assert await settled_nano(shop, "acme") == (0, True)
    assert set(await shop.losses.shut_wallets()) == {"acme"}
    wrong = [each for each in await shop.drifts() if " acme: " not in each]
    assert wrong == []


class FailsOver(Interrupted):
    """The server goes back to the copy once more."""

    def __init__(self, shop: Shop, at: int, verb: str = "") -> None:
        super().__init__(shop, at, verb)
        self.shop = shop

    async def before(self) -> None:
        await self.shop.restore()


@pytest.mark.parametrize("verb", ["freeze", "loosen", "reapply", "reopen"])
async def test_a_second_failover_during_the_repair_opens_nothing_that_is_not_restored(
    shop: Shop, verb: str
) -> None:
    await prepare(shop)
    await shop.bench.settle("s1", 40)
    await shop.bench.settle("pending", 30)
    await shop.deliver()
    before = await shop.money()
    await shop.restore()
    FailsOver(shop, 1, verb)
    try:
        done = await shop.reopen("shut")
    except LedgerUnavailable:
        done = await shop.reopen("shut")
    if done is None:  # `reopen` met the copy in which nothing was frozen, and left it so
        done = await shop.reopen("shut")
    assert done is not None
    assert done.epoch == 2
    assert await shop.money() == before
    assert await shop.drifts() == []


async def test_a_second_failover_that_keeps_it_frozen_is_noticed_too(shop: Shop) -> None:
    await lose_a_settle(shop)
    await shop.bench.ledger.freeze(0, Place(1, 2))
    await shop.keep()
    FailsOver(shop, 1, "reopen")
    with pytest.raises(LedgerUnavailable, match="not_reapplied"):
        await shop.reopen("shut")
    done = await shop.reopen("shut")
    assert done is not None
    assert (done.epoch, done.applied) == (2, 1)
    assert await shop.drifts() == []


async def test_a_repairer_that_loses_its_lease_stops_before_it_opens(shop: Shop) -> None:
    await lose_a_settle(shop)
    asked = 0

    def may_go_on() -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    with SqliteStore.at(shop.path) as store, pytest.raises(RepairGivenUp):
        await reopen(shop.desk(store), 0, Manner("shut", may_go_on=may_go_on))
    assert (await shop.outbox.heads())[0].frozen
    done = await shop.reopen("shut")
    assert done is not None
    assert done.epoch == 2
    assert replace(Manner()).may_go_on()


async def test_a_user_with_the_documented_rights_may_repair(
    valkey: redis.asyncio.Redis, valkey_socket: Path, tmp_path: Path
) -> None:
    """It may read its own keys alone, so that nothing may join records as `verify` does."""
    rights = ["reset", "on", ">secret", "~{cg*", "&{cg}:*"]
    rights += [
        "+@read",
        "+@write",
        "+@transaction",
        "+@scripting",
        "+@pubsub",
        "+info",
        "+ping",
        "+time",
    ]
    admin: Any = valkey
    await admin.execute_command("ACL", "SETUSER", "gate", *rights)
    await lose_a_settle(Shop(valkey, tmp_path))
    client = redis.asyncio.Redis(
        unix_socket_path=str(valkey_socket), username="gate", password="secret"
    )
    done = await Shop(client, tmp_path).reopen("shut")
    await client.aclose()
    await admin.execute_command("ACL", "DELUSER", "gate")
    assert done is not None
    assert (done.epoch, done.applied, done.checked) == (2, 1, True)
