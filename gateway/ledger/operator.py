"""The operator's verbs: accounts, grants, adjustments, acknowledgements.

Invariants: those with an operation id may be called again with the same arguments after
`LedgerUnavailable` or a cancellation. Packing follows the `ARGV` lines of the scripts' headers.
Amounts are nano-credits, times Unix ms by the ledger's clock.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, get_args

from msgpack import packb

from gateway.domain.delivery import Place
from gateway.domain.limits import Window
from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.domain.pricing import PERIOD_NUMBERS
from gateway.ledger.client.errors import LedgerBug, LedgerRefusal, LedgerUnavailable, ShardClosed
from gateway.ledger.client.scripts import Runner, Script, load_scripts
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.outbox_watermark import OutboxWatermark

Category = Literal["paid", "promotional", "allowance", "adjustment"]
CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
CATEGORY_NUMBERS: Final = {name: number for number, name in enumerate(CATEGORIES, 1)}

DEFAULT_PRIORITY: Final = 100

MAX_GRANTS: Final = 64
"""Grants with something left that one wallet takes (`lua/_records.lua`)."""
MAX_ALLOWANCES: Final = 16
"""Recurring grants of one wallet."""

BAD_INPUT: Final = frozenset(
    {"bad_arguments", "bad_rate", "bad_quantity", "bad_limits", "unknown_shape", "too_large"}
)
"""Words that say that the caller gave what cannot be: ValueError."""
CLOSED: Final = frozenset({"went_back", "shard_frozen", "wrong_layout", "unknown_account"})
"""Words that say that the shard cannot serve this now: LedgerUnavailable."""
_REFUSALS: Final = frozenset(
    {
        "exists_with_different_parameters",
        "already_expired",
        "too_many_grants",
        "too_many_allowances",
        "total_too_large",
        "unknown_account",
        "old_revision",
        "unknown_grant",
        "more_than_charged",
    }
)

_ACCOUNT = struct.Struct("<dddddBBB")
_TIMES = struct.Struct("<ddd")
_GRANT = struct.Struct("<BBIddd")
_ADJUST = struct.Struct("<BBd")
_ALLOWANCE = struct.Struct("<IBBBBIdd")
_PLACE = struct.Struct("<dd")
_EVIDENCE = struct.Struct("<ddB")

_KILLED: Final = 2
"""The status of an account beside 0, active, and 1, frozen."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The answer to grant. `replayed`: an earlier call with this id had already done it."""

    grant_no: int
    balance_nano: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Adjusted:
    """The answer to adjust."""

    balance_nano: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class AccountState:
    """The answer to account: the revision that gates must give. `changed`: this call set it."""

    account_rev: int
    changed: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """The answer to sweep. sweep_at_ms: when time alone changes this wallet next."""

    entries: int
    balance_nano: int
    sweep_at_ms: int


class OperatorLedger:
    """The wallets of all customers, through one runner; what is off the hot path."""

    def __init__(
        self,
        runner: Runner,
        *,
        namespace: str = "cg",
        shard_count: int = 64,
        seen: OutboxWatermark | None = None,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        """seen: shared by the ledgers of one process. clock_ms: in place of the ledger's own clock, for tests alone."""
        self.keys = Keys(namespace, shard_count)
        self._runner = runner
        self._clock_ms = clock_ms
        self.seen = seen or OutboxWatermark()
        self._scripts = load_scripts()

    async def account(
        self,
        customer_id: str,
        *,
        account_rev: int,
        credit_limit_nano: int = 0,
        frozen: bool = False,
        killed: bool = False,
        billing_day: int = 1,
        facts: Mapping[str, Any] | None = None,
    ) -> AccountState:
        """Create an account or change its terms. The revision must be higher than the ledger's.

        killed: frozen, and what runs is cut at its next sign of life
        billing_day: 1 … 31, when months of allowances and tiers begin; a month under way keeps its end
        Raises LedgerUnavailable; LedgerRefusal (old_revision, exists_with_different_parameters)
        with the ledger's revision; ValueError for arguments out of bounds.
        """
        _check_amount(credit_limit_nano)
        return await self._set_account(
            customer_id,
            account_rev,
            credit_limit_nano,
            _KILLED if killed else int(frozen),
            billing_day,
            False,
            facts,
        )

    async def bump(self, customer_id: str, facts: Mapping[str, Any] | None = None) -> AccountState:
        """Raise an account's revision, so that every gate reads it anew. Not idempotent: once more
        is once more. Raises LedgerUnavailable; LedgerRefusal(unknown_account)."""
        return await self._set_account(customer_id, 0, 0, 0, 1, True, facts)

    async def grant(
        self,
        customer_id: str,
        op_id: str,
        amount_nano: int,
        *,
        category: Category = "paid",
        priority: int = DEFAULT_PRIORITY,
        scope_bits: int = 0,
        effective_at_ms: int = 0,
        expires_at_ms: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> Granted:
        """Add credit, once for ever by `op_id`. The overdraft is repaid first.

        priority: 0 … 255, lower burns first. effective_at_ms: 0 is no condition; expires_at_ms: 0 is never
        facts:    what else the record shall say: name, reason, cost basis
        Raises LedgerUnavailable; LedgerRefusal; ValueError for arguments out of bounds.
        """
        _check_amount(amount_nano)
        terms = grant_terms(
            amount_nano,
            category=category,
            priority=priority,
            scope_bits=scope_bits,
            effective_at_ms=effective_at_ms,
            expires_at_ms=expires_at_ms,
        )
        told = {
            **(facts or {}),
            "category": category,
            "priority": priority,
            "scope_bits": scope_bits,
            "effective_at_ms": effective_at_ms,
            "expires_at_ms": expires_at_ms,
        }
        reply = await self._operate(
            self._scripts["grant"], customer_id, op_id, terms, told, "granted"
        )
        return Granted(reply[1], reply[2], reply[5] == 1)

    async def adjust(
        self,
        customer_id: str,
        op_id: str,
        amount_nano: int,
        *,
        corrects: str | None,
        reason: str,
        priority: int = DEFAULT_PRIORITY,
        facts: Mapping[str, Any] | None = None,
    ) -> Adjusted:
        """Correct a wallet by a signed amount, once for ever by `op_id`.

        corrects: id of the event that it corrects, if it corrects one
        priority: of the grant that a credit makes
        Raises LedgerUnavailable; LedgerRefusal; ValueError for arguments out of bounds.
        """
        _check_amount(abs(amount_nano))
        terms = _ADJUST.pack(amount_nano < 0, priority, abs(amount_nano))
        told = {**(facts or {}), "corrects": corrects, "reason": reason, "priority": priority}
        reply = await self._operate(
            self._scripts["adjust"], customer_id, op_id, terms, told, "adjusted"
        )
        return Adjusted(reply[1], reply[4] == 1)

    async def allowance(
        self,
        customer_id: str,
        name: str,
        amount_nano: int,
        *,
        period: Window = "month",
        rollover_max_nano: int = 0,
        category: Category = "allowance",
        priority: int = DEFAULT_PRIORITY,
        scope_bits: int = 0,
        day: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> bool:
        """Set a grant that comes anew each period; amount 0 ends it. True when this call changed it.

        The first period opens at once and in full; changed terms hold from its next period on.
        name: for ever. day: of the month on which a monthly period begins; 0 is the billing day
        rollover_max_nano: the most that goes over into the next period
        Raises LedgerUnavailable; LedgerRefusal(too_many_allowances); ValueError.
        """
        _check_amount(amount_nano)
        _check_amount(rollover_max_nano)
        terms = _ALLOWANCE.pack(
            allowance_id(name),
            PERIOD_NUMBERS[period],
            CATEGORY_NUMBERS[category],
            priority,
            day,
            scope_bits,
            amount_nano,
            rollover_max_nano,
        )
        told = {
            **(facts or {}),
            "customer_id": customer_id,
            "name": name,
            "period": period,
            "category": category,
            "priority": priority,
            "scope_bits": scope_bits,
            "day": day,
            "amount_nano": amount_nano,
            "rollover_max_nano": rollover_max_nano,
        }
        script, shard = self._scripts["allowance"], self.keys.shard_of(customer_id)
        reply = await self._on_account(script, customer_id, (terms, packb(told)))
        word = reply[0].decode()
        if word == "updated":
            self.seen.note(shard, reply[2], reply[3])
        elif word != "unchanged":
            self._refuse(script, shard, word)
        return bool(word == "updated")

    async def sweep(self, customer_id: str) -> Swept:
        """Expire grants and open periods that are due, in a wallet that nobody uses.

        May be called at any time, by anyone, again. Raises LedgerUnavailable.
        """
        script, shard = self._scripts["sweep"], self.keys.shard_of(customer_id)
        reply = await self._on_account(script, customer_id, ())
        word = reply[0].decode()
        if word != "swept":
            self._refuse(script, shard, word)
        if reply[4]:
            self.seen.note(shard, reply[4], reply[5])
        return Swept(reply[1], reply[2], reply[3])

    async def ack(self, shard: int, epoch: int, seq: int) -> None:
        """The store has this entry of the outbox and all before it: let it be trimmed.

        Raises LedgerUnavailable when the shard does not have the entry (it has gone back).
        """
        keys = (self.keys.out(shard), self.keys.meta(shard))
        reply = await self._runner.run(
            self._scripts["ack"], keys, (_PLACE.pack(epoch, max(seq, 0)),)
        )
        word = reply[0].decode()
        if word in ("not_written", "unknown_shard", "wrong_layout", "shard_frozen"):
            raise LedgerUnavailable(f"shard {shard} cannot take the acknowledgement: {word}")
        if word != "acked":
            raise unexpected(self._scripts["ack"], word)
        self.seen.note(shard, epoch, seq)

    async def freeze(self, shard: int, known: Place, *, conflict: bool = False) -> bool:
        """Shut a shard unless it has the entry `known`; whether it is shut now.

        conflict: the store has another event at a place of its outbox
        Raises LedgerUnavailable.
        """
        script = self._scripts["freeze"]
        evidence = _EVIDENCE.pack(known.epoch, max(known.seq + 1, 0), conflict)
        reply = await self._runner.run(script, (self.keys.meta(shard),), (evidence,))
        word = reply[0].decode()
        if word == "wrong_layout":
            raise ShardClosed(shard, word)
        if word not in ("frozen", "intact"):
            raise unexpected(script, word)
        return bool(word == "frozen")

    def _times(self, shard: int) -> tuple[int, int, int]:
        now = self._clock_ms() if self._clock_ms else 0
        return now, self.seen.epochs[shard], self.seen.counts[shard]

    async def _on_account(
        self, script: Script, customer_id: str, args: tuple[bytes, ...]
    ) -> list[Any]:
        """Run a script of shard, account and outbox, with the times in front of its arguments."""
        shard = self.keys.shard_of(customer_id)
        keys = (
            self.keys.meta(shard),
            self.keys.account(shard, customer_id),
            self.keys.out(shard),
        )
        return await self._runner.run(script, keys, (_TIMES.pack(*self._times(shard)), *args))

    async def _operate(
        self,
        script: Script,
        customer_id: str,
        op_id: str,
        terms: bytes,
        facts: Mapping[str, Any],
        done: str,
    ) -> list[Any]:
        shard = self.keys.shard_of(customer_id)
        keys = (
            self.keys.meta(shard),
            self.keys.account(shard, customer_id),
            self.keys.ops(shard, customer_id),
            self.keys.out(shard),
        )
        told = packb({**facts, "customer_id": customer_id})
        args = (_TIMES.pack(*self._times(shard)), op_id.encode(), terms, told)
        reply = await self._runner.run(script, keys, args)
        word = reply[0].decode()
        if word != done:
            self._refuse(script, shard, word)
        self.seen.note(shard, reply[-3], reply[-2])
        return reply

    async def _set_account(
        self,
        customer_id: str,
        account_rev: int,
        credit_limit_nano: int,
        status: int,
        billing_day: int,
        bump: bool,
        facts: Mapping[str, Any] | None,
    ) -> AccountState:
        shard = self.keys.shard_of(customer_id)
        keys = (
            self.keys.meta(shard),
            self.keys.account(shard, customer_id),
            self.keys.customers(shard),
            self.keys.out(shard),
        )
        head = _ACCOUNT.pack(
            *self._times(shard), account_rev, credit_limit_nano, status, billing_day, bump
        )
        told = {**(facts or {}), "customer_id": customer_id}
        if not bump:
            told |= {
                "credit_limit_nano": credit_limit_nano,
                "frozen": status != 0,
                "killed": status == _KILLED,
                "billing_day": billing_day,
            }
        reply = await self._runner.run(
            self._scripts["account"], keys, (head, customer_id.encode(), packb(told))
        )
        word = reply[0].decode()
        if word == "updated":
            self.seen.note(shard, reply[3], reply[4])
        elif word != "unchanged":
            self._refuse(self._scripts["account"], shard, word, reply[1] if len(reply) > 1 else 0)
        return AccountState(reply[1], word == "updated")

    def _refuse(self, script: Script, shard: int, word: str, account_rev: int = 0) -> NoReturn:
        if word in BAD_INPUT:
            raise ValueError(f"{script.name}: {word}")
        if word in _REFUSALS:
            raise LedgerRefusal(word, account_rev=account_rev)
        if word in CLOSED:
            raise self._closed(shard, word)
        raise unexpected(script, word)

    def _closed(self, shard: int, word: str) -> ShardClosed:
        """For a shard that cannot serve; reports a lost tail to the shard watch at once."""
        if word == "went_back":
            self.seen.went_back(shard)
        return ShardClosed(shard, word)


def grant_terms(
    amount_nano: int,
    *,
    category: Category,
    priority: int,
    scope_bits: int,
    effective_at_ms: int,
    expires_at_ms: int,
) -> bytes:
    """The terms of a grant, packed: a repeated operation must have the same ones."""
    number = CATEGORY_NUMBERS[category]
    return _GRANT.pack(number, priority, scope_bits, amount_nano, effective_at_ms, expires_at_ms)


def allowance_id(name: str) -> int:
    """What an allowance is called in the account record, for ever: CRC-32 of its name."""
    return zlib.crc32(name.encode())


def _check_amount(nano: int) -> None:
    if not 0 <= nano <= MAX_AMOUNT_NANO:
        raise ValueError(f"{nano} nano-credits are beyond {MAX_AMOUNT_NANO}")


def unexpected(script: Script, word: str) -> LedgerBug:
    """For a word that the script's header does not list."""
    return LedgerBug(f"{script.name} answered {word!r}, which its header does not list")
