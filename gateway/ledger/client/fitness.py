"""Checks, periodically while the gate runs, whether the server can still hold the ledger.

What `durability` refuses at the start may happen later: an operator turns eviction on, a failover
makes the server a replica, memory or disk run out. Each state has a distinct word for `/readyz`
and the log, and a sentence that says what to do.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import redis.asyncio

from gateway.ledger.client.cluster.client import ClusterClient, nodes_of
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable

TroubleWord = Literal[
    "ledger_unreachable",
    "ledger_is_replica",
    "ledger_loading",
    "ledger_evicts",
    "ledger_out_of_memory",
    "ledger_disk_failed",
    "ledger_lacks_replicas",
    "ledger_not_permitted",
    "ledger_refuses",
    "store_unreadable",
]

STORE: Final = "STORE"
"""`LedgerUnavailable.code` where the store cannot say what the ledger should have."""
UNREACHABLE: Final[TroubleWord] = "ledger_unreachable"
STORE_UNREADABLE: Final[TroubleWord] = "store_unreadable"
_BY_CODE: Final[Mapping[str, TroubleWord]] = {
    "READONLY": "ledger_is_replica",
    "MASTERDOWN": "ledger_is_replica",
    "LOADING": "ledger_loading",
    "OOM": "ledger_out_of_memory",
    "MISCONF": "ledger_disk_failed",
    "NOREPLICAS": "ledger_lacks_replicas",
    "NOPERM": "ledger_not_permitted",
    "NOAUTH": "ledger_not_permitted",
    "WRONGPASS": "ledger_not_permitted",
    STORE: STORE_UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the server cannot serve.

    moved:  it is not the primary, or not ready: all connections should reconnect
    barred: it would serve, and must not be asked to
    """

    word: TroubleWord
    sentence: str
    moved: bool = False
    barred: bool = False


async def find_troubles(client: redis.asyncio.Redis) -> dict[str, Trouble | None]:
    """Ask every server how it is, by its name in `nodes_of`. Never raises for one that is away."""
    try:
        with unavailable():
            nodes = await nodes_of(client)
    except LedgerUnavailable as error:
        return {"": trouble_of(error)}
    troubles = await asyncio.gather(*(_find_at(client, name, node) for name, node in nodes))
    return {name: trouble for (name, _), trouble in zip(nodes, troubles, strict=True)}


async def _find_at(client: Any, name: str, node: redis.asyncio.Redis) -> Trouble | None:
    """Of a node of a cluster that does not answer the others need not hear by a timeout each."""
    if not isinstance(client, ClusterClient):
        return await find_trouble(node)
    away = Trouble(UNREACHABLE, f"the node {name} does not answer")
    if client.is_gone(name):
        return away
    trouble = await find_trouble(node)
    if trouble is not None and trouble.word == UNREACHABLE:
        client.suspect(name)
        return away
    return trouble


def common_trouble(troubles: Mapping[str, Trouble | None]) -> Trouble | None:
    """Why no server admits anything: the first one's trouble, where every server has some."""
    found = list(troubles.values())
    return found[0] if found and all(found) else None


async def find_trouble(client: redis.asyncio.Redis) -> Trouble | None:
    """Ask one server how it is. Never raises for one that cannot be reached."""
    try:
        with unavailable():
            info: dict[str, Any] = await client.info("memory", "replication", "persistence")
    except LedgerUnavailable as error:
        return trouble_of(error)
    return read_trouble(info)


def trouble_of(error: LedgerUnavailable) -> Trouble:
    """The server's refusal of a command, or its silence."""
    word = _BY_CODE.get(error.code, "ledger_refuses" if error.code else UNREACHABLE)
    return Trouble(word, str(error), moved=word in ("ledger_is_replica", "ledger_loading"))


def read_trouble(info: Mapping[str, Any]) -> Trouble | None:
    """What INFO says of a server that should hold a ledger."""
    if info.get("loading"):
        return Trouble("ledger_loading", "the server is still loading its data (LOADING)", True)
    if info.get("role", "master") != "master":
        sentence = "the server is a replica and takes no writes (READONLY); connect to the primary"
        return Trouble("ledger_is_replica", sentence, moved=True)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        sentence = (
            f"maxmemory-policy is {policy}: an evicted record would be a double charge;"
            " set it to noeviction"
        )
        return Trouble("ledger_evicts", sentence, barred=True)
    most = info.get("maxmemory", 0)
    if 0 < most <= info.get("used_memory", 0):
        sentence = f"the server is out of memory (OOM): raise maxmemory, now {most} bytes"
        return Trouble("ledger_out_of_memory", sentence)
    if info.get("aof_enabled") and info.get("aof_last_write_status", "ok") != "ok":
        sentence = (
            "the server cannot write its append-only file (MISCONF); look at its disk and log"
        )
        return Trouble("ledger_disk_failed", sentence)
    # Only with `min-replicas-to-write` INFO has this line, without the number that is required.
    if info.get("min_slaves_good_slaves") == 0:
        sentence = (
            "the server has no replica in step and min-replicas-to-write requires some (NOREPLICAS):"
            " start a replica, or lower the setting"
        )
        return Trouble("ledger_lacks_replicas", sentence)
    return None
