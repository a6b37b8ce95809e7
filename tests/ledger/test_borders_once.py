"""What an Idempotency-Key that was used answers, to the number."""

import redis.asyncio

from tests.ledger.raw import Raw


async def test_a_repeat_says_whether_its_body_is_the_same(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open()
    await raw("reserve", once=b"s" * 16)
    assert await raw("reserve", "r2", once=b"s" * 16) == ["repeated", 1, "r1"]
    assert await raw("reserve", "r2", once=b"o" * 16) == ["repeated", 0, "r1"]
