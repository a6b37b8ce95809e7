"""How much each shard has to do and to keep: entries that it has written, its backlog, its memory.

Whatever cannot be read, because its node is away or the user may not ask, is None and never fails.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import RedisError

from gateway.domain.delivery import START, Place
from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.members import Primary
from gateway.ledger.client.faults import as_unavailable, unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.shard_records import Shard, read_shard

SAMPLED: Final = 50
"""Keys of a slot or shard whose memory is asked; that of the others is taken to be their mean."""
SCANNED: Final = 20_000
"""Keys of a single server that are looked at, to learn how many each shard has."""
_SLOTS_AT_ONCE: Final = 16
GLOBAL: Final = -1
"""In the place of a shard's number: the keys that belong to no shard."""


@dataclass(frozen=True, slots=True)
class ShardHead:
    """What a shard's record says. backlog: entries in its outbox"""

    last: Place
    frozen: bool
    backlog: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by shard, `GLOBAL` included; a shard that is missing could not be read.

    estimated: taken from a sample. problem: why some could not be read, in the server's words
    """

    bytes_of: Mapping[int, int]
    estimated: bool
    problem: str = ""


def slots_of(keys: Keys) -> dict[int, int]:
    """The slot of each shard, `GLOBAL` included."""
    slots = {shard: int(key_slot(keys.prefix(shard))) for shard in range(keys.shard_count)}
    return {**slots, GLOBAL: int(key_slot(keys.common("creation")))}


async def read_heads(client: Any, keys: Keys) -> list[ShardHead | None]:
    """Every shard's record. Raises LedgerUnavailable if a single server is away."""
    async with client.pipeline(transaction=False) as pipe:
        for shard in range(keys.shard_count):
            pipe.get(keys.meta(shard))
            pipe.xlen(keys.out(shard))
        with unavailable():
            replies = await pipe.execute(raise_on_error=False)
    return [
        _head(record, backlog) for record, backlog in zip(replies[::2], replies[1::2], strict=True)
    ]


def _head(record: Any, backlog: Any) -> ShardHead | None:
    if isinstance(record, Exception) or isinstance(backlog, Exception):
        return None
    shard = read_shard(record) if record else Shard(False, START, None)
    return ShardHead(shard.last, shard.frozen, int(backlog))


def entries_between(before: ShardHead | None, after: ShardHead | None) -> int | None:
    """Entries that a shard has written between two reads; None where one is missing."""
    if before is None or after is None:
        return None
    first = before.last.seq if before.last.epoch == after.last.epoch else -1
    return max(0, after.last.seq - first)


async def read_memory(client: Any, keys: Keys, primaries: Sequence[Primary]) -> Memory:
    """What each shard takes. primaries: of a cluster; none for a single server"""
    slots = slots_of(keys)
    try:
        if not primaries:
            return await _by_scan(client, keys)
        return await _by_slot(client, keys, slots, primaries)
    except (RedisError, OSError) as error:
        return Memory({}, True, str(error)[:200] or type(error).__name__)


async def _by_slot(
    client: ClusterClient, keys: Keys, slots: Mapping[int, int], primaries: Sequence[Primary]
) -> Memory:
    shards_in: dict[int, list[int]] = defaultdict(list)
    for shard, slot in slots.items():
        shards_in[slot].append(shard)
    bytes_in: dict[int, int] = {}
    estimated, problem = False, ""
    for primary in primaries:
        if primary.away:
            continue
        here = sorted(primary.member.slots & shards_in.keys())
        node = client.of(primary.endpoint)
        try:
            exact = await _told(node, here)
            bytes_in |= exact
            rest = [slot for slot in here if slot not in exact]
            estimated |= bool(rest)
            for start in range(0, len(rest), _SLOTS_AT_ONCE):
                page = {slot: shards_in[slot] for slot in rest[start : start + _SLOTS_AT_ONCE]}
                bytes_in |= await _sampled(node, keys, page)
        except (RedisError, OSError) as error:
            problem = f"{primary.name}: {as_unavailable(error)}"
    # Shards that share a slot share its memory; one of them alone cannot move.
    divided = {
        shard: bytes_in[slot] // len(shards_in[slot])
        for shard, slot in slots.items()
        if slot in bytes_in
    }
    return Memory(divided, estimated, problem)


async def _told(node: Any, slots: Sequence[int]) -> dict[int, int]:
    """Bytes of the slots of which the server keeps count (Redis 8.2 with cluster-slot-stats-enabled)."""
    replies = await _ask(
        node, [("CLUSTER", "SLOT-STATS", "SLOTSRANGE", slot, slot) for slot in slots[:1]]
    )
    if not any(_memory_of(reply) is not None for reply in replies):
        return {}
    replies = await _ask(
        node, [("CLUSTER", "SLOT-STATS", "SLOTSRANGE", slot, slot) for slot in slots]
    )
    found = {slot: _memory_of(reply) for slot, reply in zip(slots, replies, strict=True)}
    return {slot: size for slot, size in found.items() if size is not None}


def _memory_of(reply: Any) -> int | None:
    if isinstance(reply, Exception) or not reply:
        return None
    flat = reply[0][1]
    values = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
    size = values.get(b"memory-bytes")
    return None if size is None else int(size)


async def _sampled(node: Any, keys: Keys, shards_in: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Bytes of slots: their large keys as they are, of the others a sample."""
    commands: list[tuple[Any, ...]] = []
    for slot in shards_in:
        commands.append(("CLUSTER", "COUNTKEYSINSLOT", slot))
        commands.append(("CLUSTER", "GETKEYSINSLOT", slot, SAMPLED))
    replies = _raised(await _ask(node, commands))
    found: dict[int, int] = {}
    for (slot, shards), count, names in zip(
        shards_in.items(), replies[::2], replies[1::2], strict=True
    ):
        large = [name for shard in shards if shard != GLOBAL for name in _large(keys, shard)]
        small = [name for name in names if name not in large]
        found[slot] = await _estimate(node, int(count), large, small)
    return found


async def _by_scan(node: Any, keys: Keys) -> Memory:
    """Memory of a single server's shards: it keeps no list of a shard's keys, so walk some of all."""
    shard_of = {keys.prefix(shard)[:-1]: shard for shard in range(keys.shard_count)}
    shard_of[keys.common("")[:-1]] = GLOBAL
    counts, samples = Counter[int](), defaultdict[int, list[bytes]](list)
    cursor, scanned = 0, 0
    while True:
        cursor, names = await node.scan(cursor, count=1000)
        scanned += len(names)
        for name in names:
            shard = shard_of.get(name[: name.find(b"}") + 1])
            if shard is not None:
                counts[shard] += 1
                if len(samples[shard]) < SAMPLED:
                    samples[shard].append(name)
        cursor = int(cursor)
        if not cursor or scanned >= SCANNED:
            break
    scale = max(1.0, await node.dbsize() / scanned) if cursor and scanned else 1.0
    found = {}
    for shard in (*range(keys.shard_count), GLOBAL):
        large = _large(keys, shard) if shard != GLOBAL else []
        small = [name for name in samples[shard] if name not in large]
        found[shard] = await _estimate(node, round(counts[shard] * scale), large, small)
    return Memory(found, True)


def _large(keys: Keys, shard: int) -> list[bytes]:
    """Keys of a shard that grow: one of these can outweigh all the others."""
    names = (keys.meta, keys.out, keys.due, keys.customers, keys.directory, keys.plan_counts)
    return [name(shard) for name in names]


async def _estimate(node: Any, count: int, large: Sequence[bytes], small: Sequence[bytes]) -> int:
    """Bytes of `count` keys, the large ones included; small: a sample of the others"""
    names = (*large, *small)
    sizes = _raised(await _ask(node, [("MEMORY", "USAGE", name) for name in names]))
    of_large = [int(size) for size in sizes[: len(large)] if size is not None]
    of_small = [int(size) for size in sizes[len(large) :] if size is not None]
    mean = sum(of_small) / len(of_small) if of_small else 0.0
    return sum(of_large) + round(mean * max(0, count - len(of_large)))


async def _ask(node: Any, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    async with node.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
    return replies


def _raised(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
