"""A top-up that was answered and that a failover took is made again: once, and exactly."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from gateway.domain.delivery import START, Place
from gateway.domain.stores import StoreMissing
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.ledger.kept_operations import KeptOperations
from tests.ledger.test_repair import Shop


class Till:
    """A shop whose grants are kept."""

    def __init__(self, client: redis.asyncio.Redis, folder: Path) -> None:
        self.shop = Shop(client, folder)
        self.ledger = self.shop.bench.ledger
        self.kept = KeptOperations(self.ledger.shards, self.known_ids, most=3)

    def known_ids(self, ids: Sequence[str]) -> set[str]:
        with SqliteStore.at(self.shop.path) as store:
            return store.known_ids(ids)

    async def look(self) -> None:
        await self.kept.look(await self.stored())

    async def stored(self) -> dict[int, Place]:
        cursors = await self.shop.sink.open()
        await self.shop.sink.close()
        return {0: cursors.get(0, START)}

    async def granted_nano(self) -> int:
        return (await self.shop.bench.wallet()).granted_nano

    async def fail_over(self) -> None:
        """To a copy without what came after `keep`."""
        await self.shop.restore()


@pytest.fixture
async def till(valkey: redis.asyncio.Redis, tmp_path: Path) -> Till:
    opened = Till(valkey, tmp_path)
    await opened.shop.bench.open()
    await opened.shop.deliver()
    await opened.look()
    assert len(opened.kept) == 0
    return opened


async def test_what_the_store_has_is_let_go(till: Till) -> None:
    await till.ledger.grant("acme", "topup", 500)
    await till.look()
    assert len(till.kept) == 1
    await till.shop.deliver()
    with capture_logs() as logs:
        await till.look()
    assert len(till.kept) == 0
    assert logs == []


async def test_a_grant_that_was_lost_is_made_again(till: Till) -> None:
    before = await till.granted_nano()
    await till.shop.keep()
    await till.ledger.grant("acme", "topup", 500)
    await till.fail_over()
    # Another process, which has not seen the lost entry, fills its place.
    till.ledger.shards.watermark.marks[0] = (0, 0)
    await till.shop.bench.settle("s1", 40)
    await till.shop.deliver()
    with capture_logs() as logs:
        await till.look()
    assert [line["event"] for line in logs] == ["operation_repeated"]
    assert await till.granted_nano() == before + 500
    assert len(till.kept) == 1
    await till.shop.deliver()
    await till.look()
    assert len(till.kept) == 0
    assert await till.granted_nano() == before + 500
    assert await till.shop.drifts() == []


async def test_a_grant_that_the_store_restored_is_not_made_twice(till: Till) -> None:
    before = await till.granted_nano()
    await till.shop.keep()
    await till.ledger.grant("acme", "topup", 500)
    await till.shop.deliver()
    await till.fail_over()
    await till.ledger.shards.freeze(0, (await till.stored())[0])
    await till.look()  # the store has it, whatever the shard says
    assert len(till.kept) == 0
    assert await till.shop.reopen() is not None
    assert await till.granted_nano() == before + 500


async def test_while_the_shard_is_shut_it_is_kept(till: Till) -> None:
    before = await till.granted_nano()
    await till.shop.keep()
    await till.ledger.grant("acme", "topup", 500)
    await till.fail_over()
    known = till.ledger.shards.watermark.place(0)
    assert await till.ledger.shards.freeze(0, known)
    await till.kept.look({0: known})
    assert len(till.kept) == 1
    assert await till.shop.reopen() is not None
    await till.kept.look({0: known})
    assert await till.granted_nano() == before + 500
    await till.shop.deliver()
    assert await till.shop.drifts() == []


async def test_one_that_the_ledger_refuses_then_is_named(till: Till) -> None:
    await till.shop.keep()
    await till.ledger.grant("acme", "topup", 500)
    await till.fail_over()
    till.ledger.shards.watermark.marks[0] = (0, 0)
    await till.ledger.grant("acme", "topup", 700)  # the same id, and other terms
    with capture_logs() as logs:
        await till.kept.look({0: Place(1, 1000)})
    [lost] = [line for line in logs if line["event"] == "operation_lost"]
    assert (lost["op_id"], lost["reason"]) == ("topup", "exists_with_different_parameters")


async def test_the_oldest_are_given_up_beyond_the_bound(till: Till) -> None:
    for number in range(5):
        await till.ledger.grant("acme", f"topup-{number}", 1)
    assert len(till.kept) == 3


async def test_while_the_store_is_away_all_is_kept(till: Till) -> None:
    await till.ledger.grant("acme", "topup", 500)

    def away(_: Sequence[str]) -> set[str]:
        raise StoreMissing("gone")

    till.kept._known_ids = away
    with pytest.raises(StoreMissing):
        await till.kept.look({0: Place(1, 1000)})
    assert len(till.kept) == 1
