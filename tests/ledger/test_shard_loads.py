"""What a shard writes and takes, where no real server of the tests shows the case."""

from typing import Any

from gateway.domain.delivery import Place
from gateway.ledger.client.cluster.members import Primary, read_members
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.shard_loads import (
    GLOBAL,
    ShardHead,
    entries_between,
    read_memory,
    slots_of,
)

NODE = b"aaa 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-16383"


def head(epoch: int, seq: int) -> ShardHead:
    return ShardHead(Place(epoch, seq), frozen=False, backlog=0)


def test_entries_are_counted_from_two_records() -> None:
    assert entries_between(head(1, 4), head(1, 9)) == 5
    assert entries_between(head(1, -1), head(1, 0)) == 1
    assert entries_between(head(1, 9), head(2, 3)) == 4, "a new epoch counts from 0"
    assert entries_between(head(1, 9), head(1, 4)) == 0, "a shard that went back"
    assert entries_between(None, head(1, 4)) is None
    assert entries_between(head(1, 4), None) is None


class CountingNode:
    """Counts the memory of slots, as Redis 8.2 is documented to: each has its number as bytes."""

    def __init__(self) -> None:
        self._queued: list[tuple[Any, ...]] = []

    def of(self, _node: Endpoint) -> "CountingNode":
        return self

    def pipeline(self, transaction: bool) -> "CountingNode":
        assert not transaction
        return self

    async def __aenter__(self) -> "CountingNode":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._queued = []

    def execute_command(self, *words: Any) -> None:
        self._queued.append(words)

    async def execute(self, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        assert {words[:2] for words in self._queued} == {("CLUSTER", "SLOT-STATS")}
        queued, self._queued = self._queued, []
        return [[[words[3], [b"key-count", 9, b"memory-bytes", int(words[3])]]] for words in queued]


async def test_a_server_that_counts_memory_is_believed() -> None:
    keys = Keys(shard_count=8)
    [member] = read_members(NODE)
    primary = Primary(Endpoint.from_url("redis://10.0.0.1"), member, away=False)
    memory = await read_memory(CountingNode(), keys, [primary])
    assert memory.bytes_of == slots_of(keys)
    assert GLOBAL in memory.bytes_of
    assert (memory.estimated, memory.problem) == (False, "")
