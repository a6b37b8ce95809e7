"""Overdue holds come back, whatever else happens; a ledger that was away gets a pause first."""

import asyncio
from typing import Any

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from gateway.domain.delivery import Place
from gateway.domain.reservation import Settled
from gateway.flow import sweeper as module
from gateway.flow.sweeper import Sweeper
from gateway.ledger import wallet_reader
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable
from gateway.ledger.codec.reservation_records import DueReservation
from tests.support.bank import Bank
from tests.support.loose_ledger import LooseLedger
from tests.support.until import until


class Stubborn:
    """The bank's ledger, which raises for some reservations."""

    def __init__(self, ledger: LooseLedger, faults: dict[str, Exception]) -> None:
        self._ledger = ledger
        self.shards = ledger.shards
        self._faults = faults

    async def expire(self, due: DueReservation) -> Settled | None:
        fault = self._faults.get(due.reservation_id)
        if fault is not None:
            raise fault
        return await self._ledger.expire(due)


async def overdue(bank: Bank, count: int) -> None:
    """Holds whose deadline has passed by the server's clock."""
    bank.now_ms = await bank.accounts.now_ms() - 600_000
    await bank.open("acme", granted=100)
    for number in range(count):
        await bank.reserve("acme", f"r{number}")
    bank.now_ms = 0


async def held_nano(bank: Bank) -> int:
    return (await bank.accounts.wallets.read(["acme"]))["acme"].held_nano


async def test_overdue_holds_expire_and_others_stay(valkey: redis.asyncio.Redis) -> None:
    bank = Bank(valkey)
    await overdue(bank, 3)
    young = await bank.reserve("acme", "young")
    assert await Sweeper(bank.ledger.reservations, bank.accounts).sweep() == 3
    assert await held_nano(bank) == young.held_nano
    assert await Sweeper(bank.ledger.reservations, bank.accounts).sweep() == 0


async def test_one_hold_that_cannot_be_expired_does_not_keep_the_others(
    valkey: redis.asyncio.Redis,
) -> None:
    bank = Bank(valkey)
    await overdue(bank, 3)
    stubborn: Any = Stubborn(bank.ledger, {"r0": LedgerBug("odd"), "r1": ValueError("odd")})
    with capture_logs() as logs:
        assert await Sweeper(stubborn, bank.accounts).sweep() == 1
    failed = [line for line in logs if line["event"] == "expire_failed"]
    assert [line["reservation_id"] for line in failed] == ["r0", "r1"]


async def test_a_round_is_bounded_and_the_next_follows_at_once(
    valkey: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PER_SWEEP", 2)
    bank = Bank(valkey)
    await overdue(bank, 5)
    sweeping = asyncio.create_task(
        Sweeper(bank.ledger.reservations, bank.accounts, interval_s=3600, patience_s=0).run()
    )

    async def none_held() -> bool:
        return await held_nano(bank) == 0

    await until(none_held)
    sweeping.cancel()


async def test_two_sweepers_charge_once(valkey: redis.asyncio.Redis) -> None:
    bank = Bank(valkey)
    await overdue(bank, 20)
    sweepers = [Sweeper(bank.ledger.reservations, bank.accounts) for _ in range(2)]
    await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
    wallet = (await bank.accounts.wallets.read(["acme"]))["acme"]
    assert wallet.held_nano == 0
    assert wallet.settled_nano == 20 * 10 * 2


async def test_after_an_outage_the_gates_get_time_before_holds_expire(
    valkey: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank(valkey)
    await overdue(bank, 1)
    naps: list[float] = []
    rest = asyncio.sleep

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await rest(0)

    monkeypatch.setattr(asyncio, "sleep", nap)
    sweeper = Sweeper(bank.ledger.reservations, bank.accounts, interval_s=1, patience_s=5)
    rounds: list[list[float]] = []
    working = sweeper.sweep

    async def sweep() -> int:
        rounds.append(list(naps))
        naps.clear()
        if len(rounds) == 2:
            raise LedgerUnavailable("away")
        return await working()

    monkeypatch.setattr(sweeper, "sweep", sweep)
    running = asyncio.create_task(sweeper.run())
    async with asyncio.timeout(5):
        while len(rounds) < 4:
            await rest(0.001)
    running.cancel()
    assert rounds[:4] == [[5], [1], [1, 5], [1]], "patience first, and again after the outage"


async def test_wallets_whose_time_has_come_are_swept_although_nobody_uses_them(
    valkey: redis.asyncio.Redis,
) -> None:
    bank = Bank(valkey)
    now_ms = await bank.accounts.now_ms()
    for name in ("acme", "idle", "later"):
        await bank.open(name, granted=1)
    bank.now_ms = now_ms - 10_000
    await bank.operator.grant("acme", "short", 5, expires_at_ms=now_ms - 5_000)
    await bank.operator.allowance("idle", "daily", 7, period="day")
    bank.now_ms = 0
    await bank.operator.grant("later", "long", 5, expires_at_ms=now_ms + 600_000)
    sweeper = Sweeper(bank.ledger.reservations, bank.accounts)
    assert await sweeper.sweep_wallets() >= 1
    wallets = await bank.accounts.wallets.read(["acme", "idle", "later"])
    assert [wallets[name].expired_nano for name in ("acme", "idle", "later")] == [5, 0, 0]
    assert await sweeper.sweep_wallets() == 0


async def test_a_walk_over_many_wallets_sweeps_those_that_are_due_wherever_they_lie(
    valkey: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wallet_reader, "PAGE", 3)
    bank = Bank(valkey)
    now_ms = await bank.accounts.now_ms()
    bank.now_ms = now_ms - 10_000
    names = [f"customer-{number}" for number in range(60)]
    for name in names:
        await bank.open(name, granted=1)
    due = set(names[::7])
    for name in due:
        await bank.operator.grant(name, "short", 5, expires_at_ms=now_ms - 5_000)
    await valkey.sadd(bank.accounts.names.customers(0), "listed-without-a-wallet")
    bank.now_ms = 0
    found = [name async for page in bank.accounts.wallets.due() for name in page]
    assert set(found) == due
    sweeper = Sweeper(bank.ledger.reservations, bank.accounts)
    assert await sweeper.sweep_wallets() == len(found)
    wallets = await bank.accounts.wallets.read(names)
    assert {name for name in names if wallets[name].expired_nano} == due
    assert await sweeper.sweep_wallets() == 0


async def test_holds_expire_while_a_walk_over_the_wallets_lasts(
    valkey: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank(valkey)
    await overdue(bank, 2)
    sweeper = Sweeper(bank.ledger.reservations, bank.accounts, patience_s=0)
    walking = asyncio.Event()

    async def for_ever() -> int:
        walking.set()
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(sweeper, "sweep_wallets", for_ever)
    running = [asyncio.create_task(work()) for work in (sweeper.run_wallets, sweeper.run)]
    await walking.wait()

    async def none_held() -> bool:
        return await held_nano(bank) == 0

    await until(none_held)
    for task in running:
        task.cancel()


async def test_the_wallets_are_walked_again_after_an_outage(
    valkey: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Sweeper(Bank(valkey).ledger.reservations, Bank(valkey).accounts, wallets_every_s=0)
    walks = 0

    async def walk() -> int:
        nonlocal walks
        walks += 1
        if walks == 1:
            raise LedgerUnavailable("away")
        return 0

    monkeypatch.setattr(sweeper, "sweep_wallets", walk)
    running = asyncio.create_task(sweeper.run_wallets())

    async def again() -> bool:
        return walks >= 2

    await until(again)
    running.cancel()


async def test_a_shard_that_takes_nothing_does_not_keep_the_others_from_ending(
    valkey: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even with more overdue holds than a round may end."""
    monkeypatch.setattr(module, "MAX_PER_SWEEP", 3)
    bank = Bank(valkey)
    shards = {bank.ledger.keys.shard_of(f"c{number}"): f"c{number}" for number in range(50)}
    bank.now_ms = await bank.accounts.now_ms() - 600_000
    shut, other = shards[0], shards[3]
    for customer_id, count in ((shut, 4), (other, 2)):
        await bank.open(customer_id, granted=100)
        for number in range(count):
            await bank.reserve(customer_id, f"{customer_id}-{number}")
    bank.now_ms = 0
    assert await bank.operator.freeze(0, Place(1, 1000))
    sweeper = Sweeper(bank.ledger.reservations, bank.accounts)
    assert [await sweeper.sweep(), await sweeper.sweep()] == [0, 2]
    wallets = await bank.accounts.wallets.read([shut, other])
    assert (wallets[shut].open_reservations, wallets[other].open_reservations) == (4, 0)
    monkeypatch.setattr(module, "SHUT_S", 0.0)
    sweeper = Sweeper(bank.ledger.reservations, bank.accounts)
    await sweeper.sweep()
    await valkey.setrange("{cg:0}:meta", 1, b"\0")  # repaired
    assert await sweeper.sweep() == 3


async def test_wallets_of_a_shard_that_takes_nothing_are_left_out(
    valkey: redis.asyncio.Redis,
) -> None:
    bank = Bank(valkey)
    shards = {bank.ledger.keys.shard_of(f"c{number}"): f"c{number}" for number in range(50)}
    bank.now_ms = await bank.accounts.now_ms() - 600_000
    for customer_id in (shards[0], shards[3]):
        await bank.open(customer_id, granted=0)
        await bank.operator.grant(customer_id, f"g-{customer_id}", 5, expires_at_ms=bank.now_ms + 1)
    bank.now_ms = 0
    assert await bank.operator.freeze(0, Place(1, 1000))
    assert await Sweeper(bank.ledger.reservations, bank.accounts).sweep_wallets() == 2
    wallets = await bank.accounts.wallets.read([shards[0], shards[3]])
    assert [wallets[shards[n]].expired_nano for n in (0, 3)] == [0, 5]
