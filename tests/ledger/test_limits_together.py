"""Many callers at once, at several gates: what is admitted never passes a ceiling, and reaches it."""

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis.asyncio

from gateway.domain.limits import Limit, Measure, Scope, Window
from gateway.domain.reservation import Account, Denied, Hold
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.wallet_records import read_scope, read_wallet
from gateway.ledger.identities import check_identities
from gateway.ledger.standing import counted_in
from tests.ledger.bench import NOON_MS, Bench
from tests.support.loose_ledger import LooseLedger

GATES = 4
CALLERS = 160
ROOM = 40
"""So many requests of UNITS fit under each ceiling."""
UNITS = 7
NAMED = {"customer": "acme", "project": "team", "key": "k1", "model": "dear"}

KINDS: tuple[tuple[Scope, Measure, Window], ...] = (
    ("customer", "spend", "minute"),
    ("customer", "tokens", "hour"),
    ("project", "requests", "day"),
    ("project", "spend", "month"),
    ("key", "tokens", "week"),
    ("key", "requests", "minute"),
)
LIMITS = [
    *(
        Limit(scope, measure, window, ROOM * (1 if measure == "requests" else UNITS), rolling)
        for scope, measure, window in KINDS
        for rolling in (False, True)
    ),
    Limit("customer", "spend", "total", ROOM * UNITS),
    Limit("customer", "concurrent", "total", ROOM),
    Limit("key", "concurrent", "total", ROOM),
    Limit("model", "requests", "minute", ROOM, rolling=True, model="dear"),
    Limit("model", "spend", "day", ROOM * UNITS, model="dear"),
]  # fmt: skip


def named(limit: Limit) -> str:
    rolling = "any " if limit.rolling else ""
    return f"{limit.scope} {limit.measure} {rolling}{limit.window}"


@pytest.mark.parametrize("limit", LIMITS, ids=named)
async def test_callers_at_once_never_pass_a_ceiling(
    valkey: redis.asyncio.Redis, valkey_socket: Path, limit: Limit
) -> None:
    clients = [redis.asyncio.Redis(unix_socket_path=str(valkey_socket)) for _ in range(GATES)]
    gates = [LooseLedger(RedisRunner(c), shard_count=1, clock_ms=lambda: NOON_MS) for c in clients]
    await gates[0].account("acme", account_rev=1)
    await gates[0].grant("acme", "g1", 10**9)
    accounts = [Account("acme", "k1", 0, 1, "team", limits=(limit,)) for _ in gates]
    store, table, facts = AccountStore(valkey, shard_count=1), Bench.table, Bench.facts
    vector = table.vector({"input": UNITS})
    dice = random.Random(named(limit))

    async def reserve(number: int) -> Hold | Denied:
        await asyncio.sleep(0)
        return await gates[number % GATES].reserve(
            accounts[number % GATES], f"r{number}", table, vector, vector, facts,
            tokens=UNITS, ttl_ms=60_000, model="dear",
        )  # fmt: skip

    async def settle(rid: str) -> None:
        gate = dice.randrange(GATES)
        await gates[gate].settle(
            accounts[gate], rid, table, vector, facts, tokens=UNITS, reserved_at_ms=NOON_MS
        )

    async def release(rid: str) -> None:
        gate = dice.randrange(GATES)
        await gates[gate].release(
            accounts[gate], rid, msgpack.packb({"customer_id": "acme"}), reserved_at_ms=NOON_MS
        )

    def admitted(answers: Iterable[Hold | Denied | None]) -> list[str]:
        return [answer.reservation_id for answer in answers if isinstance(answer, Hold)]

    async def counted() -> tuple[int, int]:
        """Used and held, as the record of the limit's scope has it."""
        record: Any = await valkey.get(counted_in(store.names, accounts[0])[limit.counts_in])
        counters = read_scope(record) if limit.counts_in else read_wallet(record).counters
        (counter,) = counters
        return counter.used, counter.held

    answers = await asyncio.gather(*(reserve(number) for number in range(CALLERS)))
    held = admitted(answers)
    assert len(held) == ROOM
    assert {x.limit_of for x in answers if isinstance(x, Denied)} == {NAMED[limit.scope]}
    each = limit.ceiling // ROOM
    used = 0
    for turn in (1, 2):
        dice.shuffle(held)
        ends, held = held[:10], held[10:]
        numbers = range(turn * CALLERS, (turn + 1) * CALLERS)
        mixed = await asyncio.gather(
            *(reserve(number) for number in numbers[:60]),
            *(settle(rid) for rid in ends[:5]),
            *(release(rid) for rid in ends[5:]),
            *(reserve(number) for number in numbers[60:120]),
        )
        used += 0 if limit.measure == "concurrent" else 5
        held += admitted(mixed)
        assert len(held) + used <= ROOM
        held += admitted(await asyncio.gather(*map(reserve, numbers[120:])))
        assert len(held) + used == ROOM, "what was given back is used again"
        assert await counted() == (used * each, len(held) * each)
    assert await check_identities(store, valkey) == []
    for client in clients:
        await client.aclose()
