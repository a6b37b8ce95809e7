"""The primaries of a cluster as operators need them: those without slots too, and slots on their way.

`map` knows no more than who serves which slot. Each node's word on itself counts here; a node that is
away is described by the others.
"""

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.map import Address
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable

ASK_WITHIN_S: Final = 2.0
_GONE: Final = frozenset({"handshake", "noaddr"})


@dataclass(frozen=True, slots=True)
class Member:
    """One line of CLUSTER NODES.

    host:     the announced address, which the other nodes use; "" if the node does not know its own
    hostname: "" unless one is announced
    leaving:  slots that are migrating, with the id of the node they go to; only the node that was asked says so
    arriving: slots that are being imported, with the id of the node they come from; only it says so
    """

    node_id: str
    host: str
    port: int
    hostname: str
    flags: frozenset[str]
    epoch: int
    slots: frozenset[int]
    leaving: Mapping[int, str]
    arriving: Mapping[int, str]

    @property
    def is_self(self) -> bool:
        """Whether this is the node that was asked."""
        return "myself" in self.flags

    @property
    def is_primary(self) -> bool:
        """Whether it takes writes, and the others know where it is."""
        return "master" in self.flags and not self.flags & _GONE


@dataclass(frozen=True, slots=True)
class Primary:
    """A primary and how to reach it. away: it does not answer; `member` is what another node says of it"""

    endpoint: Endpoint
    member: Member
    away: bool

    @property
    def node_id(self) -> str:
        """Its id in the cluster."""
        return self.member.node_id

    @property
    def name(self) -> str:
        """HOST:PORT."""
        return self.endpoint.host_and_port


def read_members(text: bytes) -> list[Member]:
    """Parse the answer to CLUSTER NODES."""
    return [_read_line(line.split()) for line in text.decode().splitlines() if line]


async def look(client: ClusterClient) -> list[Primary]:
    """Every primary, by address. Raises LedgerUnavailable when no node answers."""
    await client.map.refresh()
    told: dict[str, Member] = {}
    answers: dict[str, tuple[Endpoint, Member]] = {}
    to_ask = {node.address: node for node in client.map.primaries}
    asked: set[Address] = set()
    while to_ask:
        asked |= set(to_ask)
        views = await asyncio.gather(*(_ask(node) for node in to_ask.values()))
        for node, view in zip(to_ask.values(), views, strict=True):
            for member in view:
                if member.is_self:
                    answers[member.node_id] = (node, member)
                elif member.is_primary:
                    known = told.get(member.node_id)
                    if known is None or known.epoch < member.epoch:
                        told[member.node_id] = member
        places = _places(client, [each for each in told.values() if each.node_id not in answers])
        to_ask = {each.address: each for each in places.values() if each.address not in asked}
    if not answers:
        raise LedgerUnavailable("no node of the ledger's cluster answers")
    found = [
        Primary(node, replace(member, host=member.host or node.address[0]), away=False)
        for node, member in answers.values()
        if member.is_primary
    ]
    absent = [member for node_id, member in told.items() if node_id not in answers]
    places = _places(client, absent)
    found += [Primary(places[member.node_id], member, away=True) for member in absent]
    return sorted(found, key=lambda each: each.endpoint.address)


def owners(primaries: Iterable[Primary]) -> dict[int, Primary]:
    """Who owns each slot. Of several that claim one, as a primary that was cut off does, it is the one
    with the highest configuration epoch."""
    by_epoch = sorted(primaries, key=lambda each: each.member.epoch)
    return {slot: each for each in by_epoch for slot in each.member.slots}


async def ask(client: ClusterClient, node: Endpoint, *words: Any) -> Any:
    """One node's answer to a command about itself. Raises redis-py's ResponseError for a refusal,
    LedgerUnavailable when it does not answer."""
    try:
        return await client.of(node).execute_command(*words)
    except ResponseError:
        raise
    except (RedisError, OSError) as error:
        raise LedgerUnavailable(
            f"the node {node.host_and_port} of the ledger's cluster does not answer"
            f" ({type(error).__name__})",
            unknown=True,
        ) from error


async def _ask(node: Endpoint) -> list[Member]:
    """What a node says, on a separate connection that does not wait for long; nothing if it is away."""
    quick: Any = node.client(name="creditgate-look", timeout_s=ASK_WITHIN_S, max_connections=1)
    try:
        with unavailable():
            return read_members(await quick.execute_command("CLUSTER", "NODES"))
    except LedgerUnavailable as error:
        if error.code:
            raise  # it answers, and refuses: that is no node that is away
        return []
    finally:
        await quick.aclose()


def _places(client: ClusterClient, members: Iterable[Member]) -> dict[str, Endpoint]:
    """Where members are reached: by host name where clients reach the other nodes so, else by address."""
    by_name = any(not _is_address(node.address[0]) for node in client.map.primaries)
    return {
        each.node_id: client.map.node(((by_name and each.hostname) or each.host, each.port))
        for each in members
    }


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _read_line(words: list[str]) -> Member:
    node_id, address, flags, _, _, _, epoch, _, *ranges = words
    slots: set[int] = set()
    leaving: dict[int, str] = {}
    arriving: dict[int, str] = {}
    for one in ranges:
        if not one.startswith("["):
            first, _, last = one.partition("-")
            slots.update(range(int(first), int(last or first) + 1))
        elif "->-" in one:
            slot, _, other = one[1:-1].partition("->-")
            leaving[int(slot)] = other
        else:
            slot, _, other = one[1:-1].partition("-<-")
            arriving[int(slot)] = other
    place, *announced = address.split(",")
    host, _, port = place.partition("@")[0].rpartition(":")
    hostname = announced[0] if announced and "=" not in announced[0] else ""
    return Member(
        node_id=node_id,
        host=host.strip("[]"),
        port=int(port),
        hostname=hostname,
        flags=frozenset(flags.split(",")),
        epoch=int(epoch),
        slots=frozenset(slots),
        leaving=leaving,
        arriving=arriving,
    )
