"""Jobs of Redis 8.4, by a node that answers as Redis's documentation says: no such server is at hand."""

from typing import Any, cast

import pytest
from redis.exceptions import ResponseError

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.members import Primary, read_members
from gateway.ledger.client.cluster.moving import find_way
from gateway.ledger.client.cluster.slot_jobs import MOST_RETRIES, await_job, run_job, running_jobs
from gateway.ledger.client.cluster.slot_moves import CannotMove, Transfer
from gateway.ledger.client.endpoint import Endpoint

NODES = b"""\
aaa 10.0.0.1:6379@16379,one.example.com myself,master - 0 0 1 connected 0-5460 [7->-bbb] [9-<-ccc]
bbb 10.0.0.2:6379@16379,,tls-port=0,shard-id=x master - 0 1 2 connected 5461-10922 16000
ccc :0@0 master,noaddr - 0 1 3 disconnected
"""
ID = "24cf41718b20f7f05901743dffc40bc9b15db339"


def job(state: str, *, error: str = "", retries: int = 0) -> list[Any]:
    """One task of CLUSTER MIGRATION STATUS."""
    fields = {
        "id": ID,
        "slots": "3-3 7-8",
        "source": "aaa",
        "dest": "bbb",
        "operation": "import",
        "state": state,
        "last_error": error,
        "retries": str(retries),
        "create_time": "1",
        "start_time": "1",
        "end_time": "0",
        "write_pause_ms": "0",
    }
    return [word.encode() for pair in fields.items() for word in pair]


class ScriptedClient:
    """Each node answers STATUS with the next of its lists, and repeats the last one."""

    def __init__(self, *statuses: list[Any]) -> None:
        self.asked: list[tuple[str, ...]] = []
        self._statuses = list(statuses)

    def of(self, _node: Endpoint) -> "ScriptedClient":
        return self

    async def execute_command(self, *words: Any) -> Any:
        self.asked.append(words)
        if words[:2] != ("CLUSTER", "MIGRATION"):
            raise ResponseError(f"unknown subcommand {words[1]!r}. Try CLUSTER HELP.")
        if words[2] == "IMPORT":
            return ID.encode()
        if words[2] == "CANCEL":
            return 1
        return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]


def scripted(*statuses: list[Any]) -> tuple[ScriptedClient, ClusterClient]:
    made = ScriptedClient(*statuses)
    return made, cast(ClusterClient, made)


def primaries() -> list[Primary]:
    return [
        Primary(Endpoint.from_url(f"redis://{each.host}:{each.port}"), each, away=False)
        for each in read_members(NODES)
        if each.is_primary
    ]


def test_nodes_are_read_with_their_open_slots_and_host_names() -> None:
    one, two, gone = read_members(NODES)
    assert (one.host, one.port, one.hostname) == ("10.0.0.1", 6379, "one.example.com")
    assert (one.leaving, one.arriving) == ({7: "bbb"}, {9: "ccc"})
    assert one.slots == frozenset(range(5461))
    assert (two.hostname, max(two.slots), two.epoch) == ("", 16000, 2)
    assert not gone.is_primary


async def test_a_job_is_started_at_the_target_and_awaited() -> None:
    asked, client = scripted([job("connecting")], [job("send-bulk")], [job("completed")])
    source, target = primaries()
    assert await find_way(client, [source, target]) == "redis_jobs"
    await run_job(client, "redis_jobs", [3, 7, 8], source, target)
    words = ("CLUSTER", "MIGRATION", "IMPORT", "3", "3", "7", "7", "8", "8")
    assert words in asked.asked


async def test_a_job_that_fails_again_and_again_is_cancelled() -> None:
    failing = job("failed", error="connection refused", retries=MOST_RETRIES)
    asked, client = scripted([job("failed", error="connection refused")], [failing])
    source, target = primaries()
    with pytest.raises(CannotMove, match="where they were: the servers say: connection refused"):
        await run_job(client, "redis_jobs", [3, 7, 8], source, target)
    assert asked.asked[-1] == ("CLUSTER", "MIGRATION", "CANCEL", "ID", ID)


async def test_a_running_job_is_found_and_awaited() -> None:
    _, client = scripted([job("send-stream")], [job("send-stream")], [job("completed")])
    source, target = primaries()
    [found] = await running_jobs(client, [source, target], "redis_jobs")
    assert found == Transfer((3, 7, 8), source, "bbb", "redis_jobs")
    await await_job(client, found, [source, target])


async def test_a_job_that_the_server_forgot_is_an_error() -> None:
    _, client = scripted([])
    source, target = primaries()
    with pytest.raises(CannotMove, match="has forgotten a job"):
        await run_job(client, "redis_jobs", [3], source, target)
