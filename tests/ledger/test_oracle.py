"""Random operations on the real scripts and on the model, compared at every step.

Retries, replies that are lost, other parameters, callers at the same time, late settles, clock
steps in both directions. After each step: the same answer, the same wallet to the unit, identities
1 and 2, the same entries of the outbox in the same order, seq without gap, and the same signals in
each. CREDITGATE_ORACLE_STEPS makes it long, CREDITGATE_ORACLE_SEED makes it another one.
"""

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import redis.asyncio

from gateway.domain.limits import SLOTS
from gateway.ledger.codec.wallet_records import read_scope, read_wallet
from gateway.ledger.identities import wallet_differences
from tests.ledger.noticing import as_said
from tests.ledger.walk import SHARDS, WEIGHTS, Call, Walk, two_gates
from tests.ledger.wallet import Entry

STEPS = int(os.environ.get("CREDITGATE_ORACLE_STEPS", "1200"))
SEED = int(os.environ.get("CREDITGATE_ORACLE_SEED", "20"))
ONE_ID = ("expire_grant", "allowance", "signals")
"""Kinds whose ids end with the place of the entry."""


class Compared:
    """The walk, and what must hold after each of its steps."""

    def __init__(self, walk: Walk, client: redis.asyncio.Redis) -> None:
        self.walk = walk
        self.model = walk.model
        self.client: Any = client
        self.keys = walk.ledgers[0].keys
        self.kinds: Counter[str] = Counter()
        """Entries so far; and signals, by their names."""
        self._records: dict[str, list[bytes | None]] = {}
        """Each customer's, as they were last compared."""
        self.did: list[str] = []
        """Names of the last step's calls."""
        self._seqs = [-1] * SHARDS

    async def step(self) -> None:
        """One call, or one whose reply is lost and that is asked again, or some at the same time."""
        walk, dice = self.walk, self.walk.dice
        walk.later()
        call, how = walk.draw(), dice.random()
        if how < 0.1 and call.at_once:
            calls = [call, *(other for other in (walk.draw(), walk.draw()) if other.at_once)]
            if dice.random() < 0.5:
                calls[-1] = call
            self.did = ["at once", *(each.name for each in calls)]
            await self._at_once(calls)
            return
        self.did = [call.name]
        if how < 0.2 and call.twice:
            self.did.append("lost")
            await call.real()
            call.model()
        assert await call.real() == call.model()
        await self.check([call.customer])

    async def _at_once(self, calls: list[Call]) -> None:
        """They must answer, and leave everything, as in one order or another."""
        answers = await asyncio.gather(*(call.real() for call in calls))
        before, wrong = self.model.saved(), AssertionError(f"{answers} come in no order")
        for order in itertools.permutations(range(len(calls))):
            if all(calls[at].model() == answers[at] for at in order):
                try:
                    await self.check([call.customer for call in calls])
                except AssertionError as error:
                    wrong = error
                else:
                    return
            self.model.restore(before)
        raise wrong

    async def check(self, touched: Sequence[str]) -> None:
        """The customers' wallets, holds and records of limits, and every new entry. What no call
        was about has not changed by a byte."""
        for name in self.walk.customers:
            account = self.walk.accounts[name]
            key = self.keys.account(account.shard, name)
            records = await self.client.mget(key, *self.keys.scopes(account, 3))
            if name in touched:
                await self._wallet(name, records)
            else:
                assert records == self._records[name]
            self._records[name] = records
        await self._entries()  # last: it forgets them

    async def _wallet(self, name: str, records: list[bytes | None]) -> None:
        expected = self.model.wallets[name]
        assert records[0] is not None
        wallet = read_wallet(records[0])
        assert [
            (g.no, g.category, g.remaining_nano, g.held_nano, g.expires_at_ms)
            for g in wallet.grants
        ] == [(g.no, g.category, g.remaining, g.held, g.expires_at) for g in expected.grants]
        assert (
            wallet.overdraft_nano,
            wallet.held_credit_nano,
            wallet.granted_nano,
            wallet.settled_nano,
            wallet.adjusted_nano,
            wallet.expired_nano,
            wallet.voided_nano,
            wallet.growth_wanted_until_ms,
            (wallet.frozen, wallet.killed),
            wallet.account_rev,
            wallet.credit_limit_nano,
            wallet.balance_nano(self.walk.now),
        ) == (
            expected.overdraft,
            expected.held_credit,
            expected.granted,
            expected.settled,
            expected.adjusted,
            expected.expired,
            expected.voided,
            expected.growth_wanted_until,
            (expected.status != "active", expected.status == "killed"),
            expected.rev,
            expected.credit_limit,
            expected.balance(self.walk.now),
        )
        assert {
            p.counter_id: (
                p.start_ms,
                p.end_ms,
                p.used,
                p.held,
                p.before_start_ms,
                p.before_used,
            )
            for p in wallet.periods
        } == {
            number: (p.start, p.end, p.used, p.held, p.before_start, p.before_used)
            for number, p in expected.periods.items()
        }
        assert {
            a.allowance_id: (a.amount_nano, a.start_ms, a.end_ms, a.grant_no, a.carry_nano)
            for a in wallet.allowances
        } == {
            number: (a.amount, a.start, a.end, a.grant, a.carry)
            for number, a in expected.allowances.items()
        }
        holds = await self.walk.store.holds.open_holds(name)
        # Of calls at once, the allocations alone can tell the order of two reserves.
        assert {hold.reservation_id: dict(hold.reservation.allocations) for hold in holds} == {
            rid: hold.parts for rid, hold in self.model.holds.items() if hold.customer == name
        }
        scopes = [
            (scope, who, read_scope(record))
            for scope, who, record in zip(
                ("project", "key"), ("team", "k1"), records[1:], strict=True
            )
            if record
        ]
        assert wallet_differences(name, wallet, holds, scopes) == []
        counters = {
            (scope, who, counter.counter_id): counter
            for scope, who, counters in [("customer", "", wallet.counters), *scopes]
            for counter in counters
        }
        assert {
            key: (c.window_start_ms, c.slot_ms, (c.used, c.held), *c.slots)
            for key, c in counters.items()
        } == {
            key: (
                c.window,
                c.slot,
                *(
                    tuple(c.slots.get(c.window - back * c.slot, (0, 0)))
                    for back in range(SLOTS + 1 if c.slot else 1)
                ),
            )
            for key, c in expected.counters.items()
        }

    async def _entries(self) -> None:
        """One entry per transition and per change of a balance, in the order of the model's, without a gap."""
        written: dict[int, list[Entry]] = {}
        seqs = list(self._seqs)
        for shard in range(SHARDS):
            since = f"(1-{seqs[shard]}" if seqs[shard] >= 0 else "-"
            for entry_id, fields in await self.client.xrange(self.keys.out(shard), min=since):
                seqs[shard] += 1
                assert entry_id == b"1-%d" % seqs[shard]
                written.setdefault(shard, []).append(self._read(fields))
        expected: dict[int, list[Entry]] = {}
        for entry in self.model.events:
            expected.setdefault(self.keys.shard_of(entry.customer), []).append(entry)
        for shard in range(SHARDS):
            mine = expected.get(shard, [])
            told = [
                entry if wanted.moved is not None else replace(entry, moved=None)
                for entry, wanted in zip(written.get(shard, []), mine, strict=False)
            ]
            assert told + written.get(shard, [])[len(mine) :] == mine
        for entry in self.model.events:
            self.kinds.update([entry.kind, *(str(name) for name, *_ in entry.signals)])
        self.model.events.clear()
        self._seqs = seqs

    def _read(self, fields: dict[bytes, bytes]) -> Entry:
        kind, event_id, at, amount, _, _, balance, moved, _, *rest = msgpack.unpackb(fields[b"s"])
        assert at == self.walk.now
        facts = msgpack.unpackb(fields[b"f"])
        if kind in ONE_ID:
            event_id = event_id.rpartition(":")[0]
        return Entry(
            facts["customer_id"], kind, event_id, amount, balance,
            as_said(rest[0]) if rest else (), tuple(zip(moved[::2], moved[1::2], strict=True)),
        )  # fmt: skip


async def wander(client: redis.asyncio.Redis, steps: int, seed: int) -> Counter[str]:
    """So many random steps, each of them checked; how often which was done and told."""
    walk = two_gates(Walk, client, seed)
    await walk.open()
    compared = Compared(walk, client)
    await compared.check(walk.customers)
    seen: Counter[str] = Counter()
    for step in range(steps):
        try:
            await compared.step()
        except BaseException as error:
            error.add_note(f"at step {step}, seed {seed}: {compared.did}")
            raise
        seen.update(compared.did)
        if (step + 1) % 10_000 == 0:
            print(f"{step + 1} of {steps}", flush=True)
    return seen + compared.kinds


EVERYTHING = {
    *(set(WEIGHTS) - {"thaw"}), "at once", "lost",
    "settle", "release", "expire", "settle_late", "grant", "expire_grant", "adjust", "allowance",
    "void", "account", "signals", "audit",
    "low_balance", "exhausted", "recovered", "grant_expiring", "topup_wanted", "spending_fast",
}  # fmt: skip


@pytest.mark.timeout(0)
async def test_random_operations_agree_with_the_model(valkey: redis.asyncio.Redis) -> None:
    met = await wander(valkey, STEPS, SEED)
    print(*(f"{name} {n}" for name, n in sorted(met.items())), sep="\n")
    if STEPS >= 1200:
        assert EVERYTHING - set(met) == set()
