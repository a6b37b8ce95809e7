"""Borders of an account's terms."""

import pytest
import redis.asyncio

from tests.ledger.raw import Raw


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


async def test_a_bump_changes_the_revision_alone_whatever_else_it_is_given(raw: Raw) -> None:
    before = await raw.header()
    await raw("account", rev=0, bump=1, limit=9, status=2, day=9)
    assert await raw.header() == {**before, "rev": 2}
