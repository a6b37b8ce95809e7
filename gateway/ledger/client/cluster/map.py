"""Which node of a cluster has which slot, as the nodes themselves say.

Asked at the start, and again whenever something hints that it has changed: a MOVED, a node that does
not answer, a cluster that is down. While a node that owns slots is away it is asked again and
again, so that an election is noticed soon.

Invariant: nodes may disagree, since a primary that was cut off still claims its slots. Of two claims the one with
the higher configuration epoch counts (https://valkey.io/topics/cluster-spec/, "Configuration epoch").
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.crc import key_slot
from redis.exceptions import ResponseError

from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.following import Moves

ASK_WITHIN_S: Final = 1.0
"""For one node to say what it knows."""
SETTLE_S: Final = 0.2
"""Once one node has answered, the others may take this long."""
GONE_AFTER_S: Final = 1.0
"""A node that has not answered for this long is not tried: a frozen one would cost a timeout each time."""
AGAIN_S: Final = 0.2
"""Pause between two questions, however many callers hint that something has changed."""
WANTED_S: Final = 10.0
"""A node that owns nothing, and to which keys are on their way, is watched for so long after the last call
that was sent there."""

_log = structlog.get_logger()

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Claim:
    """Slots that a node says somebody has. epoch: of the owner's configuration"""

    first: int
    last: int
    epoch: int
    owner: Address


class ClusterMap:
    """One process's view of a cluster. Use it from one event loop."""

    def __init__(self, seeds: Sequence[Endpoint]) -> None:
        """seeds: nodes to ask first; they need not own anything."""
        self.changes = Moves()
        """Tells when an owner has changed."""
        self._seeds = tuple(seeds)
        self._nodes: dict[Address, Endpoint] = {seed.address: seed for seed in seeds}
        self._known: tuple[Address, ...] = ()
        """Primaries and replicas of the last answers."""
        self._claims: tuple[Claim, ...] = ()
        self._owners: dict[int, Address] = {}
        self._owners_seen: set[Address] = set()
        self._slots: dict[bytes, int] = {}
        self._suspects: dict[Address, float] = {}
        """Since when, by `time.monotonic`."""
        self._wanted: dict[Address, float] = {}
        """When a call was last sent to a node that it was sent on to for once."""
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def primaries(self) -> list[Endpoint]:
        """Nodes that own slots, in the order of their addresses."""
        owners = {*self._owners.values(), *(claim.owner for claim in self._claims)}
        return [self.node(address) for address in sorted(owners)]

    @property
    def away(self) -> frozenset[Address]:
        """Nodes that did not answer lately."""
        return frozenset(self._suspects)

    @property
    def layout(self) -> frozenset[tuple[int, int, Address]]:
        """Who has which slots: ranges and their owners."""
        return frozenset((claim.first, claim.last, claim.owner) for claim in self._claims)

    def is_gone(self, address: Address) -> bool:
        """Whether a node has not answered for a while, though it is asked again and again."""
        since = self._suspects.get(address)
        return since is not None and time.monotonic() - since > GONE_AFTER_S

    def node(self, address: Address) -> Endpoint:
        """The node at an address; always the same object."""
        found = self._nodes.get(address)
        if found is None:
            found = self._nodes[address] = self._seeds[0].at(*address)
        return found

    def slot_of(self, key: bytes) -> int:
        """The slot of a key of the ledger, which begins with its hash tag."""
        tag = key[: key.find(b"}") + 1]
        slot = self._slots.get(tag)
        if slot is None:
            slot = self._slots[tag] = key_slot(key)
        return slot

    def owner(self, slot: int) -> Endpoint:
        """The node that has a slot. Raises LedgerUnavailable when nobody is known to."""
        address = self._owners.get(slot)
        if address is None:
            claims = [claim for claim in self._claims if claim.first <= slot <= claim.last]
            if not claims:
                self.suspect()
                raise LedgerUnavailable("no node of the ledger's cluster has this shard")
            address = self._owners[slot] = max(claims, key=lambda claim: claim.epoch).owner
        return self.node(address)

    def learn(self, slot: int, address: Address) -> Endpoint:
        """A node said MOVED: go by it until all have been asked."""
        if self._owners.get(slot) != address:
            self._owners[slot] = address
            self.changes.moved()
            self.suspect()
        return self.node(address)

    def sent_to(self, address: Address) -> Endpoint:
        """A node said ASK: for this call. The other one may own nothing yet."""
        self._wanted[address] = time.monotonic()
        return self.node(address)

    def suspect(self, address: Address | None = None, *, silent_s: float = 0.0) -> None:
        """Something may have changed; `address` does not answer, and has not for a while. Returns at once."""
        if address is not None:
            since = time.monotonic() - silent_s
            self._suspects[address] = min(since, self._suspects.get(address, since))
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def refresh(self) -> None:
        """Ask the nodes. Raises LedgerUnavailable when none answers."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._refresh())
        await asyncio.shield(self._asking)

    async def _watch(self) -> None:
        """Ask until every node that is needed answers: those that own slots, and get keys."""
        while True:
            await asyncio.sleep(self._asked_at + AGAIN_S - time.monotonic())
            with suppress(LedgerUnavailable):
                await self.refresh()
            self._asked_at = time.monotonic()
            self._forget()
            if self._claims and not self._suspects:
                return

    def _forget(self) -> None:
        """Suspect nobody who is not needed any more."""
        since = time.monotonic() - WANTED_S
        self._wanted = {address: at for address, at in self._wanted.items() if at > since}
        needed = {claim.owner for claim in self._claims} | self._wanted.keys()
        for address in self._suspects.keys() - needed:
            del self._suspects[address]

    async def _refresh(self) -> None:
        seeds = (seed.address for seed in self._seeds)
        asked = dict.fromkeys([*self._known, *seeds, *self._suspects])
        views: list[_View] = []
        failures: list[LedgerUnavailable] = []
        tasks = {asyncio.create_task(_ask(self.node(address))) for address in asked}
        wait_s: float | None = None
        while tasks:
            done, tasks = await asyncio.wait(
                tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                try:
                    views.append(task.result())
                except LedgerUnavailable as error:
                    failures.append(error)
            if views:
                wait_s = SETTLE_S
        for task in tasks:
            task.cancel()
        if not views:
            raise failures[0]
        for view in views:
            self._suspects.pop(view.of, None)
        self._believe(views)

    def _believe(self, views: Sequence["_View"]) -> None:
        """Take what nodes say. Not of those alone that were reset and know no others: that would be to
        forget them all, and to ask no more than the seeds. Raises LedgerUnavailable."""
        if self._claims and not any(view.claims for view in views):
            raise LedgerUnavailable("no node that answers knows who has the shards")
        self._take(views)

    def _take(self, views: Sequence["_View"]) -> None:
        before = dict(self._owners)
        self._known = tuple(dict.fromkeys(node for view in views for node in view.nodes))
        self._claims = _merge([claim for view in views for claim in view.claims])
        self._owners.clear()
        gained = Counter[str]()
        for slot, address in before.items():
            with suppress(LedgerUnavailable):
                now = self.owner(slot)
                gained[now.host_and_port] += now.address != address
        for server, count in (+gained).items():
            _log.warning("slots_moved", to=server, slots=count)
        if self._owners != before or self._owners_seen != {c.owner for c in self._claims}:
            self._owners_seen = {claim.owner for claim in self._claims}
            self.changes.moved()


@dataclass(frozen=True, slots=True)
class _View:
    """What one node says. nodes: every address that it names"""

    of: Address
    nodes: tuple[Address, ...]
    claims: tuple[Claim, ...]


async def _ask(node: Endpoint) -> _View:
    client: Any = node.client(name="creditgate-map", timeout_s=ASK_WITHIN_S, max_connections=1)
    try:
        with unavailable(), _alone(node):
            slots = await client.execute_command("CLUSTER", "SLOTS")
            text = await client.execute_command("CLUSTER", "NODES")
    finally:
        await client.aclose()
    return read_view(node.address, slots, epochs_of(text))


@contextmanager
def _alone(node: Endpoint) -> Iterator[None]:
    """Say what to write for a server that is in no cluster."""
    try:
        yield
    except ResponseError as error:
        if "cluster support disabled" not in str(error):
            raise
        raise LedgerUnavailable(
            f"{node.host_and_port} is in no cluster: write redis:// (or rediss://) in its URL",
            code="ERR",
        ) from error


def epochs_of(nodes: bytes) -> dict[str, int]:
    """Node id → configuration epoch, of CLUSTER NODES."""
    lines = (line.split(b" ") for line in nodes.splitlines())
    return {words[0].decode(): int(words[6]) for words in lines if len(words) > 6}


def read_view(of: Address, slots: Sequence[Any], epochs: Mapping[str, int]) -> _View:
    """What CLUSTER SLOTS says. An address without a host is that of the node that was asked; one whose host
    name is preferred and not known has its IP among what else is said."""
    claims, nodes = [], dict[Address, None]()
    for first, last, owner, *replicas in slots:
        addresses = [(_host(node) or of[0], int(node[1])) for node in (owner, *replicas)]
        nodes.update(dict.fromkeys(addresses))
        epoch = epochs.get(_text(owner[2]), 0) if len(owner) > 2 else 0
        claims.append(Claim(int(first), int(last), epoch, addresses[0]))
    return _View(of, tuple(nodes), tuple(claims))


def _merge(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """Without the claims that others outbid completely, so that who owns nothing is no owner."""
    every = list(dict.fromkeys(claims))
    return tuple(
        claim
        for claim in every
        if not any(
            other.epoch > claim.epoch and other.first <= claim.first and claim.last <= other.last
            for other in every
        )
    )


def _host(node: Sequence[Any]) -> str:
    more = [_text(each) for each in node[3]] if len(node) > 3 else []
    host = _text(node[0])
    return dict(zip(more[::2], more[1::2], strict=True)).get("ip", "") if host == "?" else host


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
