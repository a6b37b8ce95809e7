"""The scripts called bare: arguments packed as the headers say, any of them changed by its name,
replies and records as they are. For tests of what the methods of `Ledger` never send."""

import struct
from typing import Any

import msgpack
import redis.asyncio

from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import load_scripts
from tests.ledger.bench import NOON_MS

ROW = struct.Struct("<BBdd")
LIMIT = struct.Struct("<BBIddddd")
ACCOUNT = "<BBBBBBBBdddddddddddddd"
RING = struct.Struct("<Iddd24d")
"""The header of an account's record; these wallets have grants and counters alone behind it."""
HEADS = {
    "reserve": ("<dddddddIBBHHH", "now epoch count backlog rev tokens ttl bits mask n rows costs ids"),
    "extend": ("<ddddddB", "now epoch count number tokens ttl mask"),
    "settle": ("<dddddIB", "now epoch count tokens reserved_at bits mask"),
    "release": ("<ddddB", "now epoch count reserved_at mask"),
    "expire": ("<dddB", "now epoch count mask"),
    "quote": ("<ddddIBB", "now epoch count tokens bits mask n"),
    "afford": ("<ddddIB", "now epoch count steps bits n"),
    "grant": ("<ddd", "now epoch count"),
    "adjust": ("<ddd", "now epoch count"),
    "account": ("<dddddBBB", "now epoch count rev limit status day bump"),
    "allowance": ("<ddd", "now epoch count"),
    "sweep": ("<ddd", "now epoch count"),
    "signals": ("<ddd", "now epoch count"),
    "note": ("<ddd", "now epoch count"),
    "void": ("<ddd", "now epoch count"),
    "refund": ("<ddd", "now epoch count"),
    "ack": ("<dd", "epoch seq"),
}  # fmt: skip
"""Format and names of each verb's first argument."""
TERMS = {
    "grant": ("<BBIddd", "category priority bits amount effective_at expires_at"),
    "adjust": ("<BBd", "debit priority amount"),
    "allowance": ("<IBBBBIdd", "allowance kind category priority day bits amount rollover"),
    "void": ("<d", "no"),
    "refund": ("<ddH", "charged amount event"),
}
KEYS = {
    "reserve": "due out shard account reservation",
    "extend": "due out shard account reservation",
    "settle": "due out shard account reservation",
    "release": "due out shard account reservation",
    "expire": "due out shard account reservation",
    "quote": "shard account",
    "afford": "shard account",
    "grant": "shard account ops out",
    "adjust": "shard account ops out",
    "account": "shard account customers out",
    "allowance": "shard account out",
    "sweep": "shard account out",
    "signals": "shard account out",
    "note": "shard noted out",
    "void": "shard account ops out",
    "refund": "shard account ops out",
    "ack": "out shard",
}
EVENT = b"r1:settled"
"""What is refunded."""
SILENT = struct.pack("<BB9d", 0, 0, *[0] * 9)
"""Rules by which nothing is announced."""
SCOPES = {0: (), 1: ("project",), 2: ("key",), 3: ("project", "key")}
NAMES = {
    "due": b"{cg:0}:due",
    "out": b"{cg:0}:out",
    "shard": b"{cg:0}:meta",
    "account": b"{cg:0}:a:acme",
    "ops": b"{cg:0}:ops:acme",
    "customers": b"{cg:0}:customers",
    "project": b"{cg:0}:p:acme:team",
    "key": b"{cg:0}:k:acme:k1",
    "once": b"{cg:0}:i:d1",
    "noted": b"{cg:0}:n:r1",
}


def vector(*quantities: float) -> bytes:
    """Quantities, one per price row."""
    return struct.pack(f"<{len(quantities)}d", *quantities)


def rows(*rates: tuple[float, float]) -> bytes:
    """Price rows: unit numbers from 1; each whole nano-credits and pico-credits a unit."""
    return b"".join(ROW.pack(unit % 256, 0, *rate) for unit, rate in enumerate(rates, 1))


def limit(
    scope: int = 0,
    measure: int = 1,
    counter: int = 1,
    ceiling: float = 500,
    boundaries: tuple[float, float, float, float] = (
        NOON_MS - 2000, NOON_MS - 1000, NOON_MS + 100_000, NOON_MS + 200_000,
    ),
) -> bytes:  # fmt: skip
    """One limit row; boundaries: start of the window before, of this, of the next, of the one after."""
    return LIMIT.pack(scope, measure, counter, ceiling, *boundaries)


def rolling(
    scope: int = 0, measure: int = 1, counter: int = 1, ceiling: float = 500, slot: float = 5000
) -> bytes:
    """One limit row of a rolling window; slot: its length in ms."""
    return LIMIT.pack(scope, measure, counter, ceiling, slot, 0, 0, 0)


def payer(
    no: float = 1, nano: float = 40, category: int = 1, priority: int = 100, bits: int = 0,
    expires_at: float = 0,
) -> bytes:  # fmt: skip
    """Who paid a part of an event that is refunded."""
    return struct.pack("<ddBBId", no, nano, category, priority, bits, expires_at)


class Raw:
    """One customer, `acme`; input costs 1 nano-credit a unit, output 2."""

    ROWS = rows((1, 0), (2, 0))
    IDS = b"acme\0k1\0team"

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client: Any = client
        self.now = NOON_MS
        self._runner = RedisRunner(client)

    async def open(self, amount: float = 1000, credit_limit: float = 0) -> "Raw":
        """The account, and a grant that neither expires nor is scoped."""
        assert (await self("account", rev=1, limit=credit_limit))[0] == "updated"
        if amount:
            assert (await self("grant", id="g1", amount=amount))[0] == "granted"
        return self

    async def __call__(self, verb: str, rid: str = "r1", /, **changed: Any) -> list[Any]:
        """The reply of one call, its words as text. What is not said is of a call that succeeds."""
        scopes = SCOPES[changed.get("mask", 0)]
        named = {**NAMES, "reservation": b"{cg:0}:r:" + rid.encode()[:99]}
        last = changed.pop("last_keys", ("once",) if "once" in changed else ())
        keys = [named[name] for name in (*KEYS[verb].split(), *scopes, *last)]
        reply = await self._runner.run(
            load_scripts()[verb], keys, self._args(verb, changed.pop("id", rid), changed)
        )
        return [word.decode() if isinstance(word, bytes) else word for word in reply]

    def _args(self, verb: str, rid: str, changed: dict[str, Any]) -> list[bytes]:
        estimate = changed.pop("estimate", vector(100, 0))
        floor = changed.pop("floor", vector(20, 0))
        price_rows = changed.pop("price_rows", self.ROWS)
        cost_rows = changed.pop("cost_rows", b"")
        ids, facts = changed.pop("ids_bytes", self.IDS), changed.pop("facts", b"facts")
        limits, used = changed.pop("limits", b""), changed.pop("used", vector(40, 0))
        step = changed.pop("step", vector(10, 0))
        paid, rules = changed.pop("paid", payer()), changed.pop("rules", SILENT)
        event_name = changed.pop("event_name", EVENT)
        once = [changed.pop("once")] if "once" in changed else []
        values = {
            "now": self.now, "epoch": 0, "count": 0, "backlog": 0, "rev": 1, "tokens": 7,
            "ttl": 60_000, "bits": 0, "mask": 0, "n": len(estimate) // 8, "rows": len(price_rows),
            "costs": len(cost_rows), "ids": len(ids), "number": 1, "reserved_at": self.now,
            "limit": 0, "status": 0, "day": 1, "bump": 0, "seq": 0, "category": 1, "priority": 100,
            "amount": 10, "effective_at": 0, "expires_at": 0, "debit": 0,
            "allowance": 77, "kind": 5, "rollover": 0, "no": 1, "charged": 40, "event": len(event_name),
            "steps": 5,
        }  # fmt: skip
        unknown = set(changed) - set(values)
        assert not unknown, unknown
        values |= changed

        def packed(form: str, names: str) -> bytes:
            return struct.pack(form, *(values[name] for name in names.split()))

        head, name = packed(*HEADS[verb]), rid.encode()
        match verb:
            case "reserve":
                body = estimate + floor + price_rows + cost_rows + ids + facts
                return [head, name, body, limits, *once]
            case "extend":
                return [head, name, estimate, floor]
            case "settle":
                return [head, name, used, price_rows, cost_rows, facts]
            case "release":
                return [head, name, facts, *once]
            case "expire":
                return [head, name]
            case "quote":
                return [head, estimate, price_rows, limits]
            case "afford":
                return [head, estimate, step, price_rows]
            case "grant" | "adjust" | "void":
                return [head, name, packed(*TERMS[verb]), facts]
            case "account":
                return [head, name, facts]
            case "refund":
                return [head, name, packed(*TERMS[verb]) + event_name + paid, facts]
            case "allowance":
                return [head, packed(*TERMS[verb]), facts]
            case "signals":
                return [head, rules, facts]
            case "note":
                return [head, name, facts]
            case _:
                return [head]

    # Records

    async def unpacked(self, key: str, form: str) -> list[float]:
        """The head of a record, as numbers."""
        raw = await self.client.get(NAMES.get(key, b"{cg:0}:r:" + key.encode()))
        return list(struct.unpack_from(form, raw))

    async def shard(self) -> list[float]:
        """layout, state, 0, epoch, last_seq, acked_seq, acked_epoch."""
        return await self.unpacked("shard", "<BBHdddd")

    async def header(self) -> dict[str, float]:
        """The account record's header, by name."""
        names = (
            "layout status n_grants n_counters n_periods n_allowances day n_signals rev credit_limit"
            " overdraft held held_credit open granted settled expired voided adjusted next_no sweep_at"
            " growth_wanted"
        )
        fields = await self.unpacked("account", ACCOUNT)
        return dict(zip(names.split(), fields, strict=True))

    async def grants(self) -> list[list[float]]:
        """Each: category, priority, 0, bits, no, remaining, held, effective, expires, created."""
        raw = await self.client.get(NAMES["account"])
        form = struct.Struct("<BBHIdddddd")
        return [
            list(form.unpack_from(raw, struct.calcsize(ACCOUNT) + form.size * at))
            for at in range(raw[2])
        ]

    async def counters(self, key: str = "account") -> list[list[float]]:
        """Each: id, window, used, held."""
        raw, at, n = await self._counters(key)
        assert (len(raw) - at - 28 * n) % RING.size == 0
        return [list(struct.unpack_from("<Iddd", raw, at + 28 * i)) for i in range(n)]

    async def rings(self, key: str = "account") -> list[list[float]]:
        """Each: id, length of a slot, sum of used, of held, then used and held of each slot."""
        raw, at, n = await self._counters(key)
        return [list(ring) for ring in RING.iter_unpack(raw[at + 28 * n :])]

    async def _counters(self, key: str) -> tuple[bytes, int, int]:
        raw = await self.client.get(NAMES[key])
        if key == "account":
            return raw, struct.calcsize(ACCOUNT) + 56 * raw[2], raw[3]
        return raw, 4, raw[2]

    async def events(self) -> list[tuple[str, list[Any], bytes]]:
        """Entry id, stamp, facts."""
        entries = await self.client.xrange(NAMES["out"])
        return [
            (entry.decode(), msgpack.unpackb(fields[b"s"]), fields[b"f"])
            for entry, fields in entries
        ]

    async def dump(self) -> dict[bytes, bytes]:
        """Every key's value, serialised."""
        keys = [key async for key in self.client.scan_iter()]
        return {key: await self.client.dump(key) for key in sorted(keys)}
