"""Borders of an account's terms and of its allowances."""

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


async def test_each_of_sixteen_allowances_is_found_again(raw: Raw) -> None:
    for number in range(1, 17):
        assert (await raw("allowance", allowance=number, amount=number))[0] == "updated"
    for number in (16, 1, 15):
        assert await raw("allowance", allowance=number, amount=number) == ["unchanged"]
        assert (await raw("allowance", allowance=number, amount=0))[0] == "updated"
    assert (await raw.header())["n_allowances"] == 13
