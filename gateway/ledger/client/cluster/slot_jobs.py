"""Slots that the servers move themselves, as a job: they copy them, follow the writes, and hand over.

Valkey 9: https://valkey.io/topics/atomic-slot-migration/. Redis 8.4:
https://redis.io/docs/latest/commands/cluster-migration/; written by that page, not tried on a server.
A job goes on without whoever started it, and ends with the slots at one node or the other.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ResponseError

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.members import Primary, ask
from gateway.ledger.client.cluster.slot_moves import CannotMove, Transfer, Way

LOOK_EVERY_S: Final = 0.05
MOST_RETRIES: Final = 5
"""Redis starts a failed job again and again; after so many times it is cancelled."""
_ENDED: Final = frozenset({"success", "failed", "cancelled", "completed", "canceled"})


@dataclass(frozen=True, slots=True)
class Job:
    """A job as a node reports it. ended: whether nothing will happen any more"""

    job_id: str
    slots: frozenset[int]
    source_id: str
    target_id: str
    state: str
    message: str
    retries: int = 0

    @property
    def ended(self) -> bool:
        """Redis retries what it calls failed."""
        return self.state in _ENDED


async def run_job(
    client: ClusterClient, way: Way, slots: Sequence[int], source: Primary, target: Primary
) -> None:
    """Move slots; return when the target has them. Raises CannotMove, LedgerUnavailable."""
    ranges = [str(slot) for slot in slots for _ in ("first", "last")]
    try:
        if way == "valkey_jobs":
            before = {job.job_id for job in await _jobs(client, source, way)}
            words = ("MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", target.node_id)
            await ask(client, source.endpoint, "CLUSTER", *words)
            job_id = next(
                job.job_id
                for job in await _jobs(client, source, way)
                if job.job_id not in before and job.slots == set(slots)
            )
        else:
            words = ("MIGRATION", "IMPORT", *ranges)
            job_id = (await ask(client, target.endpoint, "CLUSTER", *words)).decode()
    except ResponseError as error:
        raise CannotMove(f"{source.name} does not move slots to {target.name}: {error}") from error
    await _wait(client, way, source if way == "valkey_jobs" else target, job_id)


async def running_jobs(
    client: ClusterClient, primaries: Sequence[Primary], way: Way
) -> list[Transfer]:
    """Jobs that have not ended. Raises LedgerUnavailable."""
    by_id = {primary.node_id: primary for primary in primaries}
    jobs = [
        job
        for primary in primaries
        if not primary.away
        for job in await _jobs(client, primary, way)
        if not job.ended and job.source_id in by_id
    ]
    running = {job.job_id: job for job in jobs}
    return [
        Transfer(tuple(sorted(job.slots)), by_id[job.source_id], job.target_id, way)
        for job in running.values()
    ]


async def await_job(client: ClusterClient, move: Transfer, primaries: Sequence[Primary]) -> None:
    """Wait for a job that somebody started. Raises CannotMove, LedgerUnavailable."""
    by_id = {primary.node_id: primary for primary in primaries}
    asked = move.source if move.way == "valkey_jobs" else by_id.get(move.target_id, move.source)
    for job in await _jobs(client, asked, move.way):
        if not job.ended and job.slots == set(move.slots):
            await _wait(client, move.way, asked, job.job_id)


async def _wait(client: ClusterClient, way: Way, asked: Primary, job_id: str) -> None:
    while True:
        job = next((job for job in await _jobs(client, asked, way) if job.job_id == job_id), None)
        if job is None:
            raise CannotMove(f"{asked.name} has forgotten a job: it was restarted. Run this again")
        if job.state in ("success", "completed"):
            return
        if job.ended or job.retries >= MOST_RETRIES:
            if not job.ended:
                await ask(client, asked.endpoint, "CLUSTER", "MIGRATION", "CANCEL", "ID", job_id)
            why = job.message or job.state
            raise CannotMove(
                f"slots {_spell(job.slots)} are where they were: the servers say: {why}"
            )
        await asyncio.sleep(LOOK_EVERY_S)


async def _jobs(client: ClusterClient, primary: Primary, way: Way) -> list[Job]:
    """Those that a node drives, the latest first; [] where it may not be asked."""
    words = ("GETSLOTMIGRATIONS",) if way == "valkey_jobs" else ("MIGRATION", "STATUS", "ALL")
    try:
        replies = await ask(client, primary.endpoint, "CLUSTER", *words)
    except ResponseError:
        return []
    jobs = map(_fields, replies)
    # Of the two ends of a job, the one that drives it. The other has jobs of which it knows no source.
    if way == "valkey_jobs":
        return [_read_valkey(job) for job in jobs if job["operation"].lower() == "export"]
    return [_read_redis(job) for job in jobs if job["operation"].lower() == "import"]


def _fields(reply: Any) -> dict[str, str]:
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _read_valkey(job: Mapping[str, str]) -> Job:
    return Job(
        job["name"],
        _slots(job["slot_ranges"]),
        job["source_node"],
        job["target_node"],
        job["state"],
        job["message"],
    )


def _read_redis(job: Mapping[str, str]) -> Job:
    state = "retrying" if job["state"] == "failed" else job["state"]
    return Job(
        job["id"],
        _slots(job["slots"]),
        job["source"],
        job["dest"],
        state,
        job["last_error"],
        int(job["retries"]),
    )


def _slots(ranges: str) -> frozenset[int]:
    slots: set[int] = set()
    for one in ranges.replace(",", " ").split():
        first, _, last = one.partition("-")
        slots.update(range(int(first), int(last or first) + 1))
    return frozenset(slots)


def _spell(slots: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(slots)))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
