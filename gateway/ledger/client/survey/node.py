"""What one server says of itself. Every question may be refused: then the answer is missing, not wrong."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

import redis.asyncio
from redis.exceptions import ResponseError

from gateway.ledger.client.durability import FAILOVER, PROMISES, Kept, Persistence, kept_by
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.rights import missing_rights

SETTINGS: Final = (
    "appendfsync",
    "cluster-allow-replica-migration",
    "cluster-node-timeout",
    "cluster-replica-validity-factor",
    "cluster-require-full-coverage",
    "maxmemory-policy",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "no-appendfsync-on-rewrite",
    "save",
)
"""What is read by CONFIG GET where it is allowed."""
PINGS: Final = 5
PROBE: Final = b"""#!lua flags=no-writes
local packed = cmsgpack.unpack(cmsgpack.pack({struct.unpack('>I4', struct.pack('>I4', 7))}))
return bit.band(packed[1], 3) + (KEYS[1] and redis.call('EXISTS', KEYS[1]) or 0)
"""
"""Reads, and uses every Lua library that the ledger's scripts use. Answers 3 where no key is there."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of a server. lag_bytes, lag_s: of the one that is furthest behind"""

    count: int
    lag_bytes: int | None
    lag_s: int | None


@dataclass(frozen=True, slots=True)
class Timing:
    """round_trip_ms: the median of some PINGs. clock_ahead_ms: of this machine's clock, known to half of
    a round trip; None where TIME is refused."""

    round_trip_ms: float
    clock_ahead_ms: float | None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One server. away: why it could not be asked; the rest is then empty.

    role: `primary`, `replica` or `sentinel`. shards: how many of the ledger's it has. eviction:
    maxmemory-policy. settings: what CONFIG GET shows, None where it is refused. waits: whether WAIT
    and WAITAOF are allowed. scripts: why a script does not run
    """

    name: str
    away: str | None = None
    server: str | None = None
    role: str | None = None
    in_cluster: bool = False
    cluster_state: str | None = None
    shards: int | None = None
    replicas: Replicas | None = None
    kept: Kept | None = None
    promise: str | None = None
    eviction: str | None = None
    memory_bytes: int | None = None
    maxmemory_bytes: int | None = None
    settings: Mapping[str, str] | None = None
    waits: Mapping[str, bool] | None = None
    scripts: str | None = None
    missing_rights: tuple[str, ...] = ()
    timing: Timing | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """Where to ask. keys: one of each shard that the server has. declared: the persistence that the
    configuration vouches for where the server does not say"""

    name: str
    namespace: str
    keys: Sequence[bytes]
    declared: Persistence | None = None


async def survey_node(
    client: redis.asyncio.Redis, probe: Probe
) -> tuple[NodeReport, Mapping[str, Any]]:
    """Ask one server everything but `time_node`; with its INFO. Never raises for one that cannot be asked."""
    asked: Any = client
    try:
        with unavailable():
            info: dict[str, Any] = await asked.info("everything")
            settings = await _settings(asked)
            kept = _declared(kept_by(info, settings or {}), probe.declared)
            replicas = _replicas(info)
            report = NodeReport(
                name=probe.name,
                server=kept.server,
                role=_role(info),
                in_cluster=bool(info.get("cluster_enabled")) or info.get("redis_mode") == "cluster",
                cluster_state=await _cluster_state(asked, info),
                shards=len(probe.keys),
                replicas=replicas,
                kept=kept,
                promise=" ".join(
                    [PROMISES[kept.persistence], *([FAILOVER] if replicas.count else [])]
                ),
                eviction=info.get("maxmemory_policy") or (settings or {}).get("maxmemory-policy"),
                memory_bytes=info.get("used_memory"),
                maxmemory_bytes=info.get("maxmemory"),
                settings=settings,
                waits={
                    "WAIT": await _allows(asked, "WAIT", 0, 1),
                    "WAITAOF": await _allows(asked, "WAITAOF", 0, 0, 1),
                },
                scripts=await _why_no_scripts(asked, probe.keys[:1]),
                missing_rights=tuple(await missing_rights(client, probe.namespace)),
            )
    except LedgerUnavailable as error:
        return NodeReport(probe.name, away=str(error), shards=len(probe.keys)), {}
    return report, info


def _declared(kept: Kept, declared: Persistence | None) -> Kept:
    if kept.verified or declared is None:
        return kept
    return replace(kept, persistence=declared)


async def _settings(client: Any) -> dict[str, str] | None:
    try:
        found = await client.config_get(*SETTINGS)
    except ResponseError:  # no permission, no such command, or no such parameter
        return None
    return {_text(name): _text(value) for name, value in found.items()}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _role(info: Mapping[str, Any]) -> str | None:
    if info.get("redis_mode") == "sentinel":
        return "sentinel"
    role = info.get("role")
    return {"master": "primary", "slave": "replica"}.get(str(role), role)


def _replicas(info: Mapping[str, Any]) -> Replicas:
    each = [
        value
        for name, value in info.items()
        if name.startswith("slave") and name[5:].isdigit() and isinstance(value, dict)
    ]
    offset = info.get("master_repl_offset")
    behind = [offset - one["offset"] for one in each if offset is not None and "offset" in one]
    lags = [one["lag"] for one in each if "lag" in one]
    return Replicas(
        count=int(info.get("connected_slaves", 0)),
        lag_bytes=max(0, *behind, 0) if behind else None,
        lag_s=max(lags) if lags else None,
    )


async def _cluster_state(client: Any, info: Mapping[str, Any]) -> str | None:
    if not info.get("cluster_enabled"):
        return None
    try:
        found = await client.execute_command("CLUSTER INFO")
    except ResponseError:
        return None
    return str(found.get("cluster_state")) if isinstance(found, dict) else None


async def _allows(client: Any, *command: object) -> bool:
    try:
        await client.execute_command(*command)
    except ResponseError:
        return False
    return True


async def _why_no_scripts(client: Any, keys: Sequence[bytes]) -> str | None:
    """The server's refusal of a script that only reads; None if it runs."""
    try:
        sha = _text(await client.script_load(PROBE))
        answer = await client.execute_command("EVALSHA", sha, len(keys), *keys)
    except ResponseError as error:
        return str(error)[:200]
    return None if answer == 3 else f"the script answered {answer!r}, not 3"


async def time_node(client: redis.asyncio.Redis) -> Timing | None:
    """Ask while nobody else is asked, or waiting for others would be counted. None if it is refused.

    The first PING is not counted: it may have to connect. Raises LedgerUnavailable.
    """
    with unavailable():
        try:
            round_trips_s = [await _timed(client.ping) for _ in range(PINGS + 1)][1:]
            round_trip_ms = median(round_trips_s) * 1000
        except ResponseError:
            return None
        try:
            ahead = [await _ahead(client) for _ in range(PINGS)]
        except ResponseError:
            return Timing(round_trip_ms, None)
    # The shortest round trip knows the server's moment best.
    return Timing(round_trip_ms, min(ahead)[1] * 1000)


async def _ahead(client: Any) -> tuple[float, float]:
    """Seconds that TIME took, and seconds that the server's clock is ahead of this machine's."""
    before_s = time.time()
    seconds, microseconds = await client.time()
    after_s = time.time()
    server_s = int(seconds) + int(microseconds) / 1e6
    return after_s - before_s, server_s - (before_s + after_s) / 2


async def _timed(ask: Callable[[], Awaitable[Any]]) -> float:
    begun_s = time.perf_counter()
    await ask()
    return time.perf_counter() - begun_s
