"""Whether the server's user may do all that the gate does; asked at the start, nothing is changed by it.

A right that is missing shows late otherwise: at the first settle, or in the command that an operator
needs when something is wrong. The server checks rights when a command is queued, so each is queued
in a transaction that is thrown away.
"""

import asyncio
from typing import Any, Final

import redis.asyncio
from redis.exceptions import NoPermissionError, ResponseError

from gateway.ledger.client.cluster.client import is_cluster, nodes_of
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys

_NO_SHA: Final = "0" * 40

KEY_COMMANDS: Final[tuple[tuple[str, ...], ...]] = (
    ("DEL",),
    ("EXISTS",),
    ("GET",),
    ("HDEL", "f"),
    ("HGET", "f"),
    ("HGETALL",),
    ("HKEYS",),
    ("HLEN",),
    ("HMGET", "f"),
    ("HSCAN", "0"),
    ("HSET", "f", "v"),
    ("HSETNX", "f", "v"),
    ("HVALS",),
    ("MGET",),
    ("MSET", "v"),
    ("SADD", "m"),
    ("SCARD",),
    ("SET", "v"),
    ("SISMEMBER", "m"),
    ("SMEMBERS",),
    ("SORT_RO",),
    ("SSCAN", "0"),
    ("XADD", "*", "f", "v"),
    ("XLEN",),
    ("XRANGE", "-", "+"),
    ("XREVRANGE", "+", "-"),
    ("XTRIM", "MINID", "0"),
    ("ZADD", "1", "m"),
    ("ZCARD",),
    ("ZRANGE", "0", "-1"),
    ("ZRANGEBYSCORE", "0", "1"),
    ("ZREM", "m"),
)
"""What scripts and clients do with a key: the command, and what stands behind the key."""
OTHER_COMMANDS: Final[tuple[tuple[str, ...], ...]] = (
    ("INFO",),
    ("PING",),
    ("SCAN", "0"),
    ("SCRIPT", "LOAD", "return 1"),
    ("TIME",),
)
CLUSTER_COMMANDS: Final[tuple[tuple[str, ...], ...]] = (
    ("ASKING",),
    ("CLUSTER", "NODES"),
    ("CLUSTER", "SLOTS"),
)
"""And on the nodes of a cluster."""
NAMES: Final = frozenset(command for command, *_ in (*KEY_COMMANDS, *OTHER_COMMANDS)) | {
    "EVALSHA",
    "EXEC",
    "MULTI",
    "PUBLISH",
    "SUBSCRIBE",
    "UNWATCH",
    "WATCH",
    "XREAD",
}
"""Every command that is needed. `CONFIG GET` and `CLIENT SETNAME` are done without."""


async def missing_rights(client: redis.asyncio.Redis, namespace: str) -> list[str]:
    """What the user may not do: commands, and keys or channels. Raises LedgerUnavailable.

    On a cluster every node is asked that can be reached; what only some of them deny names them.
    """
    with unavailable():
        nodes = await nodes_of(client)
    asked = await asyncio.gather(
        *(_missing_at(node, namespace, is_cluster(client)) for _, node in nodes),
        return_exceptions=True,
    )
    denied: dict[str, list[str]] = {}
    answered = 0
    for (server, _), missing in zip(nodes, asked, strict=True):
        if isinstance(missing, BaseException):
            if not isinstance(missing, LedgerUnavailable):
                raise missing
            continue
        answered += 1
        for name in missing:
            denied.setdefault(name, []).append(server)
    if not answered:
        raise next(error for error in asked if isinstance(error, LedgerUnavailable))
    return sorted(
        name if len(servers) == answered else f"{name} at {', '.join(servers)}"
        for name, servers in denied.items()
    )


async def _missing_at(
    client: redis.asyncio.Redis, namespace: str, of_cluster: bool
) -> dict[str, None]:
    keys = Keys(namespace)
    probe, shard_probe, channel = (
        keys.common("probe"),
        keys.prefix(0) + b"probe",
        keys.common("changes"),
    )
    queued: list[tuple[Any, ...]] = [
        (command, key, *rest) for key in (probe, shard_probe) for command, *rest in KEY_COMMANDS
    ]
    queued += OTHER_COMMANDS + (CLUSTER_COMMANDS if of_cluster else ())
    queued += [
        ("EVALSHA", _NO_SHA, 1, shard_probe),
        ("XREAD", "COUNT", 1, "STREAMS", shard_probe, 0),
        ("PUBLISH", channel, ""),
        ("SUBSCRIBE", channel),
    ]
    pool: Any = client.connection_pool
    with unavailable():
        connection = await pool.get_connection()
    missing: dict[str, None] = {}
    try:
        for command in (("WATCH", probe), ("UNWATCH",), ("MULTI",), *queued):
            await _ask(connection, command, missing)
        await _ask(connection, ("DISCARD",), {})
        await _ask(connection, ("MULTI",), {})
        await _ask(connection, ("EXEC",), missing)
    finally:
        await connection.disconnect()  # whatever it was left in
        await pool.release(connection)
    return missing


async def _ask(connection: Any, command: tuple[Any, ...], missing: dict[str, None]) -> None:
    with unavailable():
        try:
            await connection.send_command(*command)
            await connection.read_response()
        except NoPermissionError as error:
            missing[_name(command, str(error))] = None
        except ResponseError as error:
            if "NOPERM" in str(error):  # of EXEC: the transaction is discarded for it
                missing[_spelled(command)] = None
            elif "unknown command" in str(error).lower():
                missing[f"{_spelled(command)} (no such command here)"] = None


def _name(command: tuple[Any, ...], said: str) -> str:
    """The command, or what it may not be used on."""
    if "access" not in said:
        return _spelled(command)
    target = next(word for word in command if isinstance(word, bytes)).decode()
    kind = "channel" if "channel" in said else "keys"
    return f"the {kind} {target.replace(':probe', ':*')}"


def _spelled(command: tuple[Any, ...]) -> str:
    return " ".join(command[:2]) if command[0] in ("SCRIPT", "CLUSTER") else str(command[0])
