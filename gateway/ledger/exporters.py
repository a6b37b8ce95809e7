"""Exporters of one ledger: which of them may export which shard, and to which store.

Invariants: at any moment one exporter holds a shard, as far as clocks run; an overlap repeats work that the
store recognises. One store is recorded as the required one: an exporter of another store holds nothing.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

from gateway.ledger.client.errors import LedgerBug
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.scripts import Runner, load_scripts
from gateway.ledger.codec.key_names import Keys

NAME: Final = "exporters"
_TERMS: Final = struct.Struct("<dddB")
_RENEW, _LEAVE, _ADOPT = 0, 1, 2


class OtherStore(Exception):
    """The ledger's events go to another store."""

    def __init__(self, store_id: str, store_name: str) -> None:
        super().__init__(
            f"this ledger's required store is {store_name!r} (id {store_id}); this exporter stands by."
            " `creditgate export adopt` makes its store the required one"
        )
        self.store_id = store_id
        self.store_name = store_name


class StoreInUse(Exception):
    """Running exporters write to the recorded store, so that no other can become the required one."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What an exporter may export, until it is renewed or its time is over.

    members: exporters that share the shards, this one included
    """

    shards: frozenset[int]
    members: int


@dataclass(frozen=True, slots=True)
class ExporterList:
    """Exporters and store as the ledger has them.

    expires_at_ms: exporter → until when it holds its shards; owners: shard → exporter
    """

    store_id: str | None
    store_name: str | None
    expires_at_ms: dict[str, int]
    owners: dict[int, str]


class Leases:
    """One exporter's membership. member: permanent for a gate, so that a restarted one goes on at once."""

    def __init__(self, runner: Runner, keys: Keys, member: str, *, ttl_ms: int = 5000) -> None:
        self.ttl_ms = ttl_ms
        self._runner = runner
        self._keys = keys
        self._member = member.encode()
        self._script = load_scripts()["lease"]
        self._store = (b"", b"")

    async def lease(self, store_id: str, store_name: str) -> Lease:
        """Take or keep a share of the shards. Raises OtherStore, LedgerUnavailable."""
        self._store = store_id.encode(), store_name.encode()
        reply = await self._run(_RENEW)
        if reply[0] != b"leased":
            raise LedgerBug(f"lease answered {reply[0]!r}")
        return Lease(frozenset(reply[2:]), reply[1])

    async def leave(self) -> None:
        """Give all shards back. Raises LedgerUnavailable; does nothing before the first `lease`."""
        if self._store[0]:
            await self._run(_LEAVE)

    async def adopt(self, store_id: str, store_name: str) -> None:
        """Record this store as the required one. Raises StoreInUse, LedgerUnavailable."""
        self._store = store_id.encode(), store_name.encode()
        await self._run(_ADOPT)

    async def _run(self, wish: int) -> list[Any]:
        terms = _TERMS.pack(0, self.ttl_ms, self._keys.shard_count, wish)
        args = (self._member, *self._store, terms)
        reply = await self._runner.run(self._script, (self._keys.common(NAME),), args)
        word = reply[0]
        if word == b"other_store":
            raise OtherStore(reply[1].decode(), reply[2].decode())
        if word == b"in_use":
            raise StoreInUse(f"{reply[1]} running exporters write to the recorded store; stop them")
        if word not in (b"leased", b"left"):
            raise LedgerBug(f"lease answered {word!r}")
        return reply


async def list_exporters(client: Any, keys: Keys) -> ExporterList:
    """Every exporter that has renewed lately, and the store. Raises LedgerUnavailable."""
    with unavailable():
        fields: Any = await client.execute_command("HGETALL", keys.common(NAME))
    pairs = (
        fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    )
    named = {name.decode(): value.decode() for name, value in pairs.items()}
    return ExporterList(
        named.get("store_id"),
        named.get("store_name"),
        {name[2:]: int(value) for name, value in named.items() if name.startswith("m:")},
        {int(name[2:]): value for name, value in named.items() if name.startswith("s:")},
    )
