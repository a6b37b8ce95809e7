"""What the servers of a ledger promise together: the weakest promise counts."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from gateway.ledger.client.cluster.client import is_cluster, nodes_of
from gateway.ledger.client.durability import (
    FAILOVER,
    PROMISES,
    Durability,
    Persistence,
    UnfitServer,
    read_durability,
)
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import refusal_of, unavailable

LONGEST_TIMEOUT_MS: Final = 60_000
"""A longer `cluster-node-timeout` leaves a dead node's customers refused for longer than that."""
_STRENGTH: Final[Sequence[Persistence]] = get_args(Persistence)


async def read_promises(
    client: redis.asyncio.Redis, *, declared: Persistence | None = None
) -> Durability:
    """Ask every server of the ledger, one or the primaries of a cluster: see `read_durability`.

    A node that is away is named in a warning; the ledger is not verified then. Raises UnfitServer, and
    LedgerUnavailable when no server can be asked.
    """
    if not is_cluster(client):
        return await read_durability(client, declared=declared)
    with unavailable():
        nodes = await nodes_of(client)
    asked = await asyncio.gather(
        *(_read_node(server, node, declared) for server, node in nodes), return_exceptions=True
    )
    found: dict[str, Durability] = {}
    away: list[str] = []
    refused: LedgerUnavailable | None = None
    for (server, _), answer in zip(nodes, asked, strict=True):
        if isinstance(answer, Durability):
            found[server] = answer
        elif isinstance(answer, LedgerUnavailable):
            refused = answer
            away.append(f"The node {server} cannot be asked what it keeps: {answer}.")
        else:
            raise answer
    if not found:
        raise refused or LedgerUnavailable("the ledger's cluster has no nodes")
    return _together(found, away)


async def _read_node(
    server: str, client: redis.asyncio.Redis, declared: Persistence | None
) -> Durability:
    try:
        found = await read_durability(client, declared=declared, of_cluster=True)
        warnings = await _warn(client)
    except UnfitServer as error:
        raise UnfitServer(f"node {server}: {error}") from error
    return Durability(
        found.server,
        found.version,
        found.persistence,
        found.verified,
        found.promise,
        (*found.warnings, *warnings),
    )


async def _warn(client: redis.asyncio.Redis) -> list[str]:
    try:
        info: Mapping[str, Any] = await client.info("replication")
        config = await _read_config(client)
    except (RedisError, OSError) as error:
        raise refusal_of(error) or LedgerUnavailable(str(error)) from None
    warnings = []
    if not info.get("connected_slaves"):
        warnings.append("It has no replica: while it is away, its customers are refused.")
    if config.get("cluster-require-full-coverage") == "yes":
        warnings.append(
            "cluster-require-full-coverage is yes: while one node is away, every node refuses its"
            " customers; set it to no."
        )
    if config.get("cluster-allow-reads-when-down") == "yes":
        warnings.append(
            "cluster-allow-reads-when-down is yes: a node that is cut off shows balances that may be"
            " old; set it to no."
        )
    timeout_ms = int(config.get("cluster-node-timeout", "0"))
    if timeout_ms > LONGEST_TIMEOUT_MS:
        warnings.append(
            f"cluster-node-timeout is {timeout_ms} ms: a dead node's customers are refused for longer"
            " than that, until a replica takes over."
        )
    return warnings


async def _read_config(client: redis.asyncio.Redis) -> Mapping[str, str]:
    """What CONFIG shows, or nothing where it is blocked, renamed or unknown."""
    try:
        config = await client.config_get("cluster-*")
    except ResponseError:
        return {}
    text = {}
    for pair in config.items():
        name, value = (each.decode() if isinstance(each, bytes) else str(each) for each in pair)
        text[name] = value
    return text


def _together(found: Mapping[str, Durability], away: Sequence[str]) -> Durability:
    weakest = min((each.persistence for each in found.values()), key=_STRENGTH.index)
    by_warning: dict[str, list[str]] = {}
    for server, each in found.items():
        for warning in each.warnings:
            by_warning.setdefault(warning, []).append(server)
    warnings = [
        warning if len(servers) == len(found) else f"{', '.join(servers)}: {warning}"
        for warning, servers in by_warning.items()
    ]
    return Durability(
        server=", ".join(sorted({each.server for each in found.values()})),
        version=min(each.version for each in found.values()),
        persistence=weakest,
        verified=not away and all(each.verified for each in found.values()),
        promise=f"{PROMISES[weakest]} {FAILOVER}",
        warnings=(*away, *warnings),
    )
