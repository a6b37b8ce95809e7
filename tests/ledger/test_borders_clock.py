"""The ledger's own clock, to the millisecond."""

import redis.asyncio

from tests.ledger.raw import Raw


async def now_ms(client: redis.asyncio.Redis) -> int:
    seconds, micros = await client.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def test_the_servers_clock_counts_where_none_is_given(valkey: redis.asyncio.Redis) -> None:
    """Often, for only a call that takes less than a millisecond shows a wrong one; and near the end of
    a second, where a wrong divisor shows."""
    raw = await Raw(valkey).open()
    while await now_ms(valkey) % 1000 < 960:
        pass
    for number in range(30):
        before = await now_ms(valkey)
        made_at = (await raw("reserve", f"r{number}", now=0, estimate=b"\0" * 16))[3]
        assert before <= made_at <= await now_ms(valkey)
