"""Streams that wait are held open while memory is read, and let go after it."""

import os

import pytest

from loadtest.bench import idle
from loadtest.peers.target import Target
from loadtest.provider import Provider, running
from tests.support.until import until


def target(url: str, **fields: str) -> Target:
    return Target(
        "provider",
        lambda _upstream, _streams: url,
        serving=lambda: [os.getpid()],
        fields=lambda _upstream: fields,
    )


async def test_streams_wait_at_the_provider_and_are_let_go() -> None:
    provider = Provider()
    async with running(provider) as url:
        weighed = await idle.measure(target(url), "plain", 24, settle_s=0.05)
        await until(lambda: provider.served.connections_open == 0)
        rows = [row for row in provider.served.rows if row.planned == 2]
    assert (weighed.target, weighed.upstream, weighed.streams) == ("provider", "plain", 24)
    assert weighed.base_mib > 1
    assert [row.output for row in rows] == [1] * 24  # each had brought one token, and waited
    assert {row.state for row in rows} == {"broken"}


async def test_a_contender_that_refuses_streams_is_not_weighed() -> None:
    async with running(Provider()) as url:
        with pytest.raises(OSError, match="500"):
            await idle.measure(target(url, **{"x-sim": "status=500"}), "plain", 2, settle_s=0.0)
