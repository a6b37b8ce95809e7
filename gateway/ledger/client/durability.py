"""What the ledger's server promises to keep, read from it at start; and what is refused.

Invariants: an evicted tombstone is a double charge, so a server that may evict is refused. Whatever
cannot be read (managed services block CONFIG) may be declared by the operator; a declaration
never outweighs what was read, and shows as unverified.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import refusal_of

Persistence = Literal["none", "rdb", "aof_os", "aof_everysec", "aof_always"]
"""From weakest to strongest. aof_os: an append-only file that is flushed when the system likes."""

LEAST_VERSION: Final = (7, 0)
WAITAOF_VERSION: Final = (7, 2)

PROMISES: Final[Mapping[Persistence, str]] = {
    "none": "A crash of the server's process, or a power loss, loses every balance.",
    "rdb": "A crash of the server's process, or a power loss, loses everything since the last "
    "snapshot.",
    "aof_os": "A crash of the server's process loses nothing; a power loss loses what the system "
    "has not written yet, 30 s on Linux.",
    "aof_everysec": "A crash of the server's process loses nothing, or up to 2 s when the disk "
    "stalls; a power loss loses 1 to 2 s.",
    "aof_always": "Neither a crash of the server's process nor a power loss loses anything that "
    "was answered, if the disk is honest.",
}
FAILOVER: Final = (
    "It has replicas: replication is asynchronous, so a failover may lose the last writes, and a "
    "split brain may spend a balance on both sides."
)


class UnfitServer(Exception):
    """The server must not hold a ledger. The message says why, and what to change."""


@dataclass(frozen=True, slots=True)
class WaitAof:
    """Ask after each write of the hot path whether the disk has it. Made by `Durability.waitaof`.

    timeout_ms: after this long without the disk's answer the outcome is unknown
    """

    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Durability:
    """What the server keeps.

    server:   product and version, `Valkey 9.1.2`
    verified: all of it was read from the server, nothing taken from a declaration or assumed
    promise:  one or two sentences for people
    warnings: what else the operator should know, a sentence each
    """

    server: str
    version: tuple[int, int]
    persistence: Persistence
    verified: bool
    promise: str
    warnings: tuple[str, ...]

    def waitaof(self, timeout_ms: int) -> WaitAof:
        """Permission to wait for the disk behind each write.

        Raises UnfitServer unless the append-only file is flushed always: with `everysec` each
        wait would last up to a second.
        """
        if self.persistence != "aof_always":
            raise UnfitServer(
                f"WAITAOF needs appendfsync always; {self.server} runs {self.persistence}"
            )
        if self.version < WAITAOF_VERSION:
            raise UnfitServer(f"WAITAOF needs Redis 7.2 or Valkey; this is {self.server}")
        if not 1 <= timeout_ms <= 60_000:
            raise ValueError("timeout_ms is outside 1 … 60000")
        return WaitAof(timeout_ms)


async def read_durability(
    client: redis.asyncio.Redis,
    *,
    declared: Persistence | None = None,
    of_cluster: bool = False,
) -> Durability:
    """Ask one server what it is and keeps; `cluster/durability.py` asks those of a cluster.

    declared: what the operator vouches for where the server does not say: the persistence, and
              that nothing is ever evicted
    of_cluster: it is a node of the cluster that the configuration names

    Raises UnfitServer, or LedgerUnavailable when it cannot be asked.
    """
    assert declared is None or declared in get_args(Persistence)
    try:
        info: dict[str, Any] = await client.info("everything")
        config = await _read_config(client)
    except (RedisError, OSError) as error:
        raise refusal_of(error) or LedgerUnavailable(
            f"the ledger's server does not say what it is: {str(error).rstrip('.')}"
        ) from None
    version = _refuse_unfit(info, of_cluster)
    policy = info.get("maxmemory_policy") or config.get("maxmemory-policy")
    warnings: list[str] = []
    verified = True
    if policy is None:
        if declared is None:
            raise UnfitServer(
                "the server does not say its maxmemory-policy; if it is noeviction, declare the "
                "server's persistence in the configuration"
            )
        verified = False
        warnings.append("That nothing is evicted is declared, not verified.")
    elif policy != "noeviction":
        raise UnfitServer(
            f"maxmemory-policy is {policy}: an evicted record would be a double charge; "
            "set it to noeviction"
        )
    persistence, certain = _persistence(info, config)
    if not certain and declared is not None:
        persistence = declared
    elif declared is not None and declared != persistence:
        warnings.append(f"Declared is {declared}, but the server says {persistence}.")
    if not certain:
        verified = False
        warnings.append(
            f"Persistence {persistence} is {'declared' if declared else 'assumed'}, not verified: "
            "the server does not let its configuration be read. Grant the user `+config|get`"
            f"{'' if declared else ', or declare `redis.durability`'}."
        )
    warnings += _warn(info, config, persistence)
    promise = PROMISES[persistence]
    if info.get("connected_slaves", 0):
        promise = f"{promise} {FAILOVER}"
    return Durability(
        server=_name(info),
        version=version,
        persistence=persistence,
        verified=verified,
        promise=promise,
        warnings=tuple(warnings),
    )


async def _read_config(client: redis.asyncio.Redis) -> Mapping[str, str]:
    """What CONFIG shows, or nothing where it is blocked, renamed or unknown."""
    try:
        config = await client.config_get(
            "appendfsync", "save", "maxmemory-policy", "no-appendfsync-on-rewrite"
        )
    except ResponseError:  # no permission, or no such command
        return {}
    return {_text(name): _text(value) for name, value in config.items()}


@dataclass(frozen=True, slots=True)
class Kept:
    """What one server says that it keeps. verified: read from it, not assumed or declared"""

    server: str
    persistence: Persistence
    verified: bool
    warnings: tuple[str, ...]


def kept_by(info: Mapping[str, Any], config: Mapping[str, str]) -> Kept:
    """What INFO and CONFIG say. Refuses nothing."""
    persistence, certain = _persistence(info, config)
    return Kept(_name(info), persistence, certain, tuple(_warn(info, config, persistence)))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _refuse_unfit(info: Mapping[str, Any], of_cluster: bool) -> tuple[int, int]:
    """The version (Valkey: of the Redis it is compatible with), if such a server is taken."""
    try:
        major, minor = str(info["redis_version"]).split(".")[:2]
        version = int(major), int(minor)
    except (KeyError, ValueError):
        raise UnfitServer("the server does not say its version in INFO") from None
    if version < LEAST_VERSION:
        raise UnfitServer(f"{_name(info)} is too old; Redis 7.0 or Valkey is needed")
    if not of_cluster and (info.get("cluster_enabled") or info.get("redis_mode") == "cluster"):
        raise UnfitServer(
            "the server is a node of a cluster: write redis+cluster://HOST:PORT,HOST:PORT"
            " (rediss+cluster:// with TLS) as its URL"
        )
    if info.get("redis_mode") == "sentinel":
        raise UnfitServer("this is a Sentinel, not a server of data")
    if info.get("role", "master") != "master":
        if of_cluster:  # in the middle of an election
            raise LedgerUnavailable(
                "a node of the ledger's cluster is a replica by now", code="READONLY"
            )
        raise UnfitServer("the server is a replica; the ledger needs the primary")
    return version


def _persistence(info: Mapping[str, Any], config: Mapping[str, str]) -> tuple[Persistence, bool]:
    """What is kept, and whether that is certain. What is not known counts as the weaker."""
    if info.get("aof_enabled"):
        fsync: dict[str, Persistence] = {
            "always": "aof_always",
            "everysec": "aof_everysec",
            "no": "aof_os",
        }
        known = fsync.get(config.get("appendfsync", ""))
        return (known, True) if known else ("aof_os", False)
    if "save" in config and "aof_enabled" in info:
        return ("rdb" if config["save"] else "none"), True
    return "none", False


def _warn(
    info: Mapping[str, Any], config: Mapping[str, str], persistence: Persistence
) -> list[str]:
    warnings = []
    if persistence == "aof_always" and config.get("no-appendfsync-on-rewrite") == "yes":
        warnings.append(
            "no-appendfsync-on-rewrite is yes: while the append-only file is rewritten, a power "
            "loss may lose up to 30 s."
        )
    if not info.get("maxmemory"):
        warnings.append(
            "maxmemory is not set: when memory runs out the system kills the server, instead of "
            "the ledger refusing to admit."
        )
    if info.get("aof_enabled") and info.get("aof_last_write_status", "ok") != "ok":
        warnings.append("The last write to the append-only file failed.")
    if config.get("save") and info.get("rdb_last_bgsave_status", "ok") != "ok":
        warnings.append("The last snapshot failed.")
    return warnings


def _name(info: Mapping[str, Any]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', 'of unknown version')}"
