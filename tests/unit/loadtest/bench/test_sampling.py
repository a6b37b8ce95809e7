"""Samples and rounds against the simulated provider itself, in the contenders' place."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from loadtest.bench.cells import BURST, CELLS, JSON_32, Cell
from loadtest.bench.sampling import Bench, GateFails
from loadtest.peers.target import Target
from loadtest.provider import Provider, running

JSON, SSE = (
    next(cell for cell in CELLS if (cell.workload, cell.upstream) == (workload, "plain"))
    for workload in (JSON_32, BURST)
)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A simulated provider."""
    async with running(Provider()) as found:
        yield found


@pytest.fixture
def client(valkey_socket: Path) -> Iterator["redis.Redis"]:
    """A Redis whose costs are read."""
    with redis.Redis(unix_socket_path=str(valkey_socket)) as found:
        yield found


def target(name: str, url: str, **fields: str) -> Target:
    return Target(name, lambda _upstream, _streams: url, fields=lambda _upstream: fields)


async def test_every_contender_takes_every_workload_in_turns_there_and_back(
    url: str, client: "redis.Redis"
) -> None:
    bench = Bench(0.02, client, [], [target("gate", url), target("other", url)], "gate")
    told: list[str] = []
    for number in range(2):
        await bench.round([JSON, SSE], number, told.append)
    assert [line.rpartition(" ")[2] for line in told] == [
        *("gate", "other", "gate", "other"),
        *("other", "gate", "other", "gate"),
    ]
    assert {key: len(samples) for key, samples in bench.samples.items()} == {
        (cell.name, name): 2 for cell in (JSON, SSE) for name in ("gate", "other")
    }
    assert all(sample.good > 0 for samples in bench.samples.values() for sample in samples)


async def test_a_contender_that_gives_no_good_answer_is_told_and_left_out_of_the_rounds(
    url: str, client: "redis.Redis"
) -> None:
    broken = target("broken", url, **{"x-sim": "status=500"})
    bench = Bench(0.02, client, [], [target("gate", url), broken], "gate")
    await bench.warm([JSON], 0.02, lambda _what: None)
    await bench.round([JSON], 0, lambda _what: None)
    assert [*bench.samples] == [(JSON.name, "gate")]
    assert bench.failed[JSON.name, "broken"].startswith("fails: ")
    assert "× 500" in bench.failed[JSON.name, "broken"]


async def test_a_gate_that_gives_no_good_answer_ends_the_run(
    url: str, client: "redis.Redis"
) -> None:
    bench = Bench(0.02, client, [], [target("gate", url, **{"x-sim": "status=500"})], "gate")
    with pytest.raises(GateFails, match="500"):
        await bench.warm([JSON], 0.02, lambda _what: None)


@pytest.mark.parametrize(("rate", "asked"), [(1e9, False), (1.0, True)])
async def test_a_rate_is_not_asked_of_a_peer_that_cannot_carry_half_of_it(
    url: str, client: "redis.Redis", rate: float, asked: bool
) -> None:
    cell: Cell = replace(JSON, rate=rate)
    bench = Bench(0.02, client, [], [target("gate", url), target("other", url)], "gate")
    await bench.warm([cell], 0.05, lambda _what: None)
    assert set(bench.failed) == (set() if asked else {(cell.name, "other")})
    assert all(why.endswith("/s at most") for why in bench.failed.values())
