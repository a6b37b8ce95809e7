"""Writes outbox entries as the settling scripts do, for tests of what comes after them."""

import struct
from typing import Any

import msgpack
import redis.asyncio

from gateway.domain.delivery import START, Place
from gateway.domain.usage import UNIT_NUMBERS
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.scripts import load_scripts
from gateway.ledger.codec.shard_records import Shard, read_shard

_EMIT = """
local shard = { struct.unpack('<BBHdddd', redis.call('GET', KEYS[2]) or ARGV[1]) }
shard[5] = shard[5] + 1
redis.call('XADD', KEYS[1], string.format('%.0f-%.0f', shard[4], shard[5]), unpack(ARGV, 2))
redis.call('SET', KEYS[2], struct.pack('<BBHdddd', unpack(shard, 1, 7)))
return { shard[4], shard[5] }
"""


def pack_shard(last: Place, acked: Place | None = None) -> bytes:
    """A shard record of layout 1."""
    epoch, seq = acked or (0, -1)
    return struct.pack("<BBHdddd", 1, 0, 0, *last, seq, epoch)


class OutboxWriter:
    """Entries and shard records after `lua/README.md`, by plain commands."""

    def __init__(self, client: redis.asyncio.Redis, shards: int = 4) -> None:
        self.client = client
        self.shards = shards
        self.last: dict[int, Place] = {}
        self.written: list[str] = []

    async def write(
        self,
        shard: int = 0,
        *,
        kind: str = "settle",
        event_id: str | None = None,
        customer_id: str = "acme",
        amount: int = 700,
        facts: dict[str, Any] | None = None,
        **raw: bytes,
    ) -> str:
        """Append one entry, as XADD numbers it; returns the event's id."""
        event_id = event_id or f"r{len(self.written)}:settled"
        usage = [UNIT_NUMBERS["input"], 12, UNIT_NUMBERS["output"], 5]
        stamp = [kind, event_id, 1_700_000_000_000, amount, 1000, False, 5000, [1, amount], usage]
        known = {"customer_id": customer_id, "price_version": "p_1", "request_id": event_id[:-8]}
        fields: dict[Any, Any] = {
            "s": msgpack.packb(stamp),
            "f": msgpack.packb({**known, **(facts or {})}),
            **raw,
        }
        flat = [part for pair in fields.items() for part in pair]
        fresh: Any = pack_shard(START)
        place: Any = await self.client.eval(_EMIT, 2, *self._keys(shard), fresh, *flat)
        self.last[shard] = Place(*place)
        self.written.append(event_id)
        return event_id

    async def write_many(self, count: int) -> list[str]:
        """Spread entries over all shards."""
        return [await self.write(number % self.shards) for number in range(count)]

    async def place(self, shard: int, last: Place) -> None:
        """Say in the shard's record that its outbox ends here."""
        self.last[shard] = last
        acked = (await self.head(shard)).acked
        await self.client.set(self._keys(shard)[1], pack_shard(last, acked))

    async def head(self, shard: int) -> Shard:
        """The shard's record."""
        record: Any = await self.client.get(f"{{cg:{shard}}}:meta")
        return read_shard(record) if record else Shard(False, START, None)

    async def ack(self, shard: int, epoch: int, seq: int) -> None:
        """Run the ledger's own script, as `Ledger.ack` does."""
        source = load_scripts()["ack"].source.decode()
        place: Any = struct.pack("<dd", epoch, seq)
        reply: Any = await self.client.eval(source, 2, *self._keys(shard), place)
        if reply[0] != b"acked":
            raise LedgerUnavailable(f"{reply}")

    async def freeze(self, shard: int, known: Place, *, conflict: bool = False) -> bool:
        """Run the ledger's own script, as `Ledger.freeze` does."""
        source = load_scripts()["freeze"].source.decode()
        evidence: Any = struct.pack("<ddB", known.epoch, max(known.seq + 1, 0), conflict)
        reply: Any = await self.client.eval(
            source, 2, self._keys(shard)[1], f"{{cg:{shard}}}:loss", evidence
        )
        return bool(reply[0] == b"frozen")

    @staticmethod
    def _keys(shard: int) -> tuple[str, str]:
        return f"{{cg:{shard}}}:out", f"{{cg:{shard}}}:meta"
