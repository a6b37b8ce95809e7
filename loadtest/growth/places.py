"""Ledgers that hold much: what a size of each dimension means, and how it is filled.

Invariants: what is copied in bulk was made by the real scripts first, and the copy is byte for byte: the
records of an account and of a key name neither. Grants and holds are made by their own operations.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from gateway.domain.limits import Limit, Scope, Window
from gateway.domain.money import NANO_PER_CREDIT
from gateway.domain.reservation import Account, Hold
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.codec.calls import ReserveCall
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.operations import AccountTerms, NewGrant
from gateway.ledger.reservations import Reservations
from gateway.ledger.shards import Shards
from gateway.ledger.wallets import Wallets
from loadtest.exporter_cost import FILL, facts
from loadtest.ledger_cost import Pairs, prices

ASKED: Final = 32_768
"""Customers, keys or projects that are asked about at most, drawn from all there are."""
_COPIES_AT_ONCE: Final = 5_000
_AT_ONCE: Final = 64
CREDIT_NANO: Final = 10_000 * NANO_PER_CREDIT
_HOLD_MS: Final = 86_400_000

_COPY: Final = """
for i = 1, #ARGV - 3 do
  local customer = ARGV[i + 3]
  redis.call('SET', KEYS[1] .. 'a:' .. customer, ARGV[1])
  redis.call('HSET', KEYS[1] .. 'ops:' .. customer, ARGV[2], ARGV[3])
  redis.call('SADD', KEYS[1] .. 'customers', customer)
end
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A private server: the hot path's connection and a client for the rest."""

    runner: CoalescingRunner
    client: Any


One = Callable[[], Awaitable[None]]
"""A reserve and its settle."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """Something that there may be more of.

    name:     of its chart's file
    fill:     makes a ledger of this size on so many servers, and says what a pair on it is
    servers:  how many a size needs
    """

    name: str
    title: str
    axis: str
    sizes: tuple[int, ...]
    fill: Callable[[Sequence[Server], int], Awaitable[One]]
    servers: Callable[[int], int] = lambda _: 1


def names_of(count: int) -> list[str]:
    return [f"customer-{number:07d}" for number in range(count)]


def _account(
    ledger: Shards, customer_id: str, limits: tuple[Limit, ...] = (), key_id: str = "k_bench"
) -> Account:
    shard = ledger.keys.shard_of(customer_id)
    return Account(customer_id, key_id, shard, account_rev=1, project_id="team", limits=limits)


async def _open(ledger: Shards, customer_id: str) -> None:
    """A customer with one grant."""
    wallets = Wallets(ledger)
    await wallets.account(customer_id, AccountTerms(1))
    await wallets.grant(customer_id, "start", NewGrant(CREDIT_NANO))


async def fill_customers(server: Server, ledger: Shards, names: Sequence[str]) -> None:
    """These customers, each with one grant: the first of each shard by the scripts, the others
    with a copy of its records."""
    of_shard: dict[int, list[str]] = {}
    for name in names:
        of_shard.setdefault(ledger.keys.shard_of(name), []).append(name)
    for shard, (first, *others) in of_shard.items():
        await _open(ledger, first)
        record = await server.client.get(ledger.keys.account(shard, first))
        done = await server.client.hget(ledger.keys.ops(shard, first), "start")
        for at in range(0, len(others), _COPIES_AT_ONCE):
            copied = others[at : at + _COPIES_AT_ONCE]
            prefix = ledger.keys.prefix(shard)
            await server.client.eval(_COPY, 1, prefix, record, b"start", done, *copied)


async def customers(servers: Sequence[Server], size: int) -> One:
    """So many customers; the pairs go to those that are drawn, one after the other."""
    ledger, names = Shards(servers[0].runner), names_of(size)
    await fill_customers(servers[0], ledger, names)
    drawn = random.Random(1).sample(names, min(size, ASKED))
    return Pairs(ledger, "n", (), 1, accounts=[_account(ledger, name) for name in drawn]).one


async def grants(servers: Sequence[Server], size: int) -> One:
    """Wallets with so many open grants."""
    pairs = Pairs(Shards(servers[0].runner), "grants", (), size)
    await pairs.prepare()
    return pairs.one


def many_limits(count: int) -> tuple[Limit, ...]:
    """So many limits that never refuse: windows by the calendar of the customer, then of the
    project, then of the key, two each, and more of them in the same order."""
    scopes: tuple[Scope, ...] = ("customer", "project", "key")
    windows: tuple[Window, ...] = get_args(Window)
    every = [
        Limit(scope, measure, window, 10**15)
        for window in windows
        for scope in scopes
        for measure in ("spend", "requests")
    ]
    return tuple(every[:count])


async def limits(servers: Sequence[Server], size: int) -> One:
    """So many limits on each request, in up to three records."""
    pairs = Pairs(Shards(servers[0].runner), "limits", many_limits(size), 1)
    await pairs.prepare()
    return pairs.one


async def keys(servers: Sequence[Server], size: int) -> One:
    """One customer with so many API keys, each with two limits of its own and so a record."""
    ledger = Shards(servers[0].runner)
    await _open(ledger, "holder")
    own = (Limit("key", "spend", "day", 10**15), Limit("key", "requests", "minute", 10**15))
    accounts = [_account(ledger, "holder", own, f"key-{number}") for number in range(size)]
    await Pairs(ledger, "make", own, 1, accounts=accounts).one()
    places = [ledger.keys.scopes(account, 2)[0] for account in accounts]
    record = next(raw for raw in await servers[0].client.mget(places[:2]) if raw)
    for at in range(0, size, _COPIES_AT_ONCE):
        copied = dict.fromkeys(places[at : at + _COPIES_AT_ONCE], record)
        await servers[0].client.mset(copied)
    drawn = random.Random(1).sample(accounts, min(size, ASKED))
    return Pairs(ledger, "keys", own, 1, accounts=drawn).one


async def holds(servers: Sequence[Server], size: int) -> One:
    """So many pending reservations, over 64 customers."""
    ledger = Shards(servers[0].runner)
    reservations = Reservations(ledger)
    pairs = Pairs(ledger, "holds", (), 1)
    await pairs.prepare()
    table = prices()
    bound, floor = table.vector({"request": 1, "output": 1}), table.vector({"request": 1})
    opened = 0

    async def one() -> None:
        nonlocal opened
        opened = number = opened + 1
        held = await reservations.reserve(
            ledger.pack(_account(ledger, f"holds-{number % 64}")),
            ReserveCall(f"open-{number:027d}", table, bound, floor, facts(), 1, _HOLD_MS),
        )
        assert isinstance(held, Hold), held

    await _many(one, size)
    return pairs.one


async def backlog(servers: Sequence[Server], size: int) -> One:
    """So many events in the outboxes that no store has taken."""
    ledger = Shards(servers[0].runner)
    pairs = Pairs(ledger, "backlog", (), 1)
    await pairs.prepare()
    body, shards = facts(), ledger.keys.shard_count
    each = 20_000
    for shard in range(shards):
        left = size // shards + (shard < size % shards)
        while left > 0:
            count = min(each, left)
            places = ledger.keys.out(shard), ledger.keys.meta(shard)
            await servers[0].client.eval(FILL, 2, *places, count, shard, body)
            left -= count
    return pairs.one


async def shards(servers: Sequence[Server], size: int) -> One:
    """A ledger that was created with so many shards, on one server."""
    pairs = Pairs(Shards(servers[0].runner, Keys("cg", size)), "shards", (), 1)
    await pairs.prepare()
    return pairs.one


async def spread(servers: Sequence[Server], size: int) -> One:
    """So many servers, each with a ledger and customers of its own, asked in turn."""
    ones = []
    for number in range(size):
        pairs = Pairs(Shards(servers[number].runner), f"server{number}", (), 1)
        await pairs.prepare()
        ones.append(pairs.one)
    turn = 0

    async def one() -> None:
        nonlocal turn
        turn += 1
        await ones[turn % size]()

    return one


async def _many(one: One, count: int) -> None:
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await one()

    await asyncio.gather(*(caller() for _ in range(min(_AT_ONCE, count))))


DIMENSIONS: Final = (
    Dimension(
        "customers", "Customers of a ledger", "customers", (10, 1000, 10**5, 10**6), customers
    ),
    Dimension("grants", "Open grants of a wallet", "grants", (1, 4, 16, 64), grants),
    Dimension("limits", "Limits of a request", "limits", (1, 2, 4, 6, 12, 24, 36), limits),
    Dimension("keys", "API keys of one customer", "keys", (10, 1000, 10**5), keys),
    Dimension("holds", "Open holds", "holds", (10, 1000, 10**5), holds),
    Dimension("backlog", "Events in the outbox", "events", (100, 10**4, 10**6, 10**7), backlog),
    Dimension("shards", "Shards of a ledger on one server", "shards", (1, 4, 16, 64, 256), shards),
    Dimension(
        "servers", "Servers with a ledger each", "servers", (1, 2, 4), spread, lambda size: size
    ),
)
