"""Verbs of a reservation: one script call each.

Invariants: every method may be called again with the same arguments after `LedgerUnavailable` or a
cancellation; the scripts recognise the operation by its id. A word that a script's header does not
list is a `LedgerBug`. Amounts are nano-credits, times Unix ms by the ledger's clock.

A call may find that a hold counts in scope records that the account's limits no longer name
(`wrong_scopes`, after a change of limits or from a journal): the call is repeated with those scopes.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, get_args

from gateway.domain.limits import Limit
from gateway.domain.reservation import (
    Affordable,
    Denied,
    DenyReason,
    Extended,
    Hold,
    Outcome,
    Quote,
    Rated,
    Repeated,
    Settled,
    Use,
)
from gateway.ledger.client.errors import LedgerUnavailable, TooOld
from gateway.ledger.client.scripts import Script
from gateway.ledger.codec.calls import (
    AffordCall,
    Answered,
    Arguments,
    ExtendCall,
    Prices,
    QuoteCall,
    ReleaseCall,
    ReserveCall,
    SettleCall,
    pack_afford,
    pack_expire,
    pack_extend,
    pack_quote,
    pack_rate,
    pack_release,
    pack_reserve,
    pack_settle,
    with_hold_scopes,
)
from gateway.ledger.codec.packed_account import PackedAccount
from gateway.ledger.codec.reservation_records import DueReservation
from gateway.ledger.shards import BAD_INPUT, CLOSED, Shards, unexpected

_REASONS: Final = frozenset(get_args(DenyReason))
_DECISIONS: Final = _REASONS | {"allow"}
_OUTCOMES: Final[dict[bytes, Outcome]] = {word.encode(): word for word in get_args(Outcome)}
_INVALID: Final = BAD_INPUT | {"exists_with_different_prices", "total_too_large"}


class Reservations:
    """Reserve, extend, settle, release, expire; and what they would answer: quote, afford, rate."""

    __slots__ = ("_backlog", "_marks", "_runner", "_scripts", "_settle", "answered", "shards")

    def __init__(self, shards: Shards, *, max_backlog: int = 0) -> None:
        """max_backlog: reserves are refused while a shard's outbox has this many entries that the
        store has not acknowledged; 0 is no bound."""
        self.shards = shards
        self._backlog = max_backlog
        self._runner = shards.runner
        self._marks = shards.watermark.marks
        self._scripts = shards.scripts
        self._settle = shards.scripts["settle"]
        self.answered: Callable[[Answered], object] = deque[Answered](maxlen=0).append
        """Called with each settle and release that the ledger has answered; at first, it forgets."""

    async def reserve(self, account: PackedAccount, call: ReserveCall) -> Hold | Denied:
        """Hold the estimate, all limits included, or nothing.

        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        script, times = self._scripts["reserve"], self.shards.times(account.shard)
        bound = self._backlog
        reply = await self._runner.run(script, *pack_reserve(account, call, times, bound))
        if reply[0] != b"held":
            if reply[0] == b"stale_windows":  # the clock has passed a boundary of a limit's window
                account.repack(reply[1])
                reply = await self._runner.run(script, *pack_reserve(account, call, times, bound))
            if reply[0] != b"held":
                return self._denied(account, call, reply)
        _, held, available, reserved_at, deadline = reply
        if reserved_at >= account.fresh_until_ms:
            account.repack(reserved_at)
        return Hold(call.reservation_id, held, available, reserved_at, deadline)

    async def extend(self, account: PackedAccount, call: ExtendCall) -> Extended | Settled | None:
        """Keep a hold alive; grow it if its estimate has grown.

        Answers Settled when the reservation has ended, None when the ledger knows none of that id.
        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        script = self._scripts["extend"]
        arguments = pack_extend(account, call, self.shards.times(account.shard))
        reply = await self._runner.run(script, *arguments)
        if reply[0] == b"wrong_scopes":
            reply = await self._runner.run(script, *with_hold_scopes(account, arguments, reply[1]))
        word = reply[0]
        if word in (b"extended", b"not_grown"):
            reason: Any = reply[4].decode() if word == b"not_grown" else "recorded"
            return Extended(
                grown=word == b"extended",
                held_nano=reply[1],
                available_nano=reply[2],
                deadline_ms=reply[3],
                reason=None if reason == "recorded" else reason,
                account_rev=reply[-1],
            )
        if word == b"unknown_reservation":
            return None
        return self._ended(account.shard, call.reservation_id, script, reply)

    async def settle(self, account: PackedAccount, call: SettleCall) -> Settled:
        """Charge what was used, whatever has become of the hold.

        Raises LedgerUnavailable, TooOld; ValueError for arguments out of bounds.
        """
        shard = account.shard
        arguments = pack_settle(account, call, self.shards.times(shard))
        reply = await self._runner.run(self._settle, *arguments)
        if reply[0] != b"settled":
            return await self._answer(account, call, arguments, reply)
        # Nearly every request comes this way; the other one would take it to the same end.
        _, charged, balance, epoch, seq, replayed, *_ = reply
        mark = epoch, seq + 1
        if mark > self._marks[shard]:  # as `OutboxWatermark.note`
            self._marks[shard] = mark
        self.answered((mark, account, call))
        return Settled("settled", charged, balance, f"{call.reservation_id}:settled", replayed == 1)

    async def release(self, account: PackedAccount, call: ReleaseCall) -> Settled:
        """Return all of a hold, and make sure that a reserve still on its way comes too late.

        Raises LedgerUnavailable, TooOld.
        """
        arguments = pack_release(account, call, self.shards.times(account.shard))
        reply = await self._runner.run(self._scripts["release"], *arguments)
        return await self._answer(account, call, arguments, reply)

    async def expire(self, due: DueReservation) -> Settled | None:
        """End a hold whose deadline has passed, charging its checkpoint.

        None when it is not due, or gone. Raises LedgerUnavailable.
        """
        script, account = self._scripts["expire"], self.shards.pack(due.account)
        arguments = pack_expire(account, due.reservation_id, self.shards.times(due.shard))
        reply = await self._runner.run(script, *arguments)
        if reply[0] == b"wrong_scopes":
            reply = await self._runner.run(script, *with_hold_scopes(account, arguments, reply[1]))
        if reply[0] in (b"not_due", b"gone"):
            return None
        return self._ended(due.shard, due.reservation_id, script, reply)

    async def quote(self, account: PackedAccount, call: QuoteCall) -> Quote:
        """What a reserve would answer now; writes nothing.

        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        shard, script = account.shard, self._scripts["quote"]
        now_ms = time.time_ns() // 1_000_000
        if self.shards.clock_ms is None and now_ms >= account.fresh_until_ms:
            account.repack(now_ms)
        reply = await self._runner.run(script, *pack_quote(account, call, self.shards.times(shard)))
        word = reply[0].decode()
        if word in BAD_INPUT:
            raise ValueError(f"quote: {word}")
        if word not in _DECISIONS:
            if word in CLOSED:
                raise self.shards.closed(shard, word)
            raise unexpected(script, word)
        estimate_nano, available, balance = reply[1:] if len(reply) == 4 else (0, 0, 0)
        return Quote(estimate_nano, available, balance, word)

    async def afford(self, account: PackedAccount, call: AffordCall) -> Affordable:
        """How much of a request the wallet can pay for now. Limits are not checked; writes nothing.

        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        script, times = self._scripts["afford"], self.shards.times(account.shard)
        reply = await self._runner.run(script, *pack_afford(account, call, times))
        word = reply[0].decode()
        if word == "affordable":
            _, estimate, available, balance, fits, open_reservations = reply
            return Affordable(fits, open_reservations, estimate, available, balance, "allow")
        if word in BAD_INPUT:
            raise ValueError(f"afford: {word}")
        if word in CLOSED:
            raise self.shards.closed(account.shard, word)
        if word not in _REASONS:
            raise unexpected(script, word)
        _, estimate, available, balance = reply
        return Affordable(0, 0, estimate, available, balance, word)

    async def rate(
        self, prices: Prices, uses: Sequence[Use], *, billing_day: int, periods: bytes = b""
    ) -> Rated:
        """What past uses of one customer come to at a price; no wallet is read or written.

        uses:    in the order of their reserves, at most MAX_USES
        periods: as the call before returned them; empty at first
        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        script = self._scripts["rate"]
        word, *rated = await self._runner.run(
            script, *pack_rate(prices, uses, billing_day, periods)
        )
        if word.decode() in BAD_INPUT:
            raise ValueError(f"rate: {word.decode()}")
        if word != b"rated":
            raise unexpected(script, word.decode())
        after, *amounts = rated
        return Rated(tuple(amounts[::2]), tuple(amounts[1::2]), after)

    async def _answer(
        self,
        account: PackedAccount,
        call: SettleCall | ReleaseCall,
        arguments: Arguments,
        reply: Sequence[Any],
    ) -> Settled:
        """What a settle or release has come to, asked again with the hold's scopes if it has to be."""
        script = self._scripts["settle" if isinstance(call, SettleCall) else "release"]
        if reply[0] == b"wrong_scopes":
            reply = await self._runner.run(script, *with_hold_scopes(account, arguments, reply[1]))
        ended = self._ended(account.shard, call.reservation_id, script, reply)
        self.answered(((reply[3], reply[4] + 1), account, call))
        return ended

    def _ended(
        self, shard: int, reservation_id: str, script: Script, reply: Sequence[Any]
    ) -> Settled:
        """The end of a reservation, or the exception for what prevented it."""
        outcome = _OUTCOMES.get(reply[0])
        differs = False
        if outcome is None:
            differs = reply[0] == b"exists_with_different_usage"
            if differs:
                outcome = _OUTCOMES.get(reply[6])
            if outcome is None:
                raise self._not_ended(shard, f"{script.name} of {reservation_id}", script, reply[0])
        _, charged, balance, epoch, seq, replayed, *_ = reply
        if epoch and (mark := (epoch, seq + 1)) > self._marks[shard]:  # as `OutboxWatermark.note`
            self._marks[shard] = mark
        return Settled(
            outcome, charged, balance, f"{reservation_id}:{outcome}", replayed == 1, differs
        )

    def _not_ended(self, shard: int, what: str, script: Script, word: bytes) -> Exception:
        said = word.decode()
        if said in _INVALID:
            return ValueError(f"{what}: {said}")
        if said == "too_old":
            return TooOld(f"{what}: {said}")
        if said in CLOSED:
            return self.shards.closed(shard, said)
        return unexpected(script, said)

    def _denied(self, account: PackedAccount, call: ReserveCall, reply: Sequence[Any]) -> Denied:
        word = reply[0].decode()
        if word == "repeated":
            return Denied("repeated", repeats=Repeated(reply[2].decode(), reply[1] == 1))
        if word == "went_back":
            self.shards.watermark.went_back(account.shard)
        if word in BAD_INPUT:
            raise ValueError(f"reserve: {word}")
        if word == "wrong_layout":
            raise LedgerUnavailable(
                "the shard's records have a layout that this release cannot read"
            )
        if word not in _REASONS:
            raise unexpected(self._scripts["reserve"], word)
        if len(reply) == 7:
            return _over_limit(account, account.rows_for(call.model).limits, reply)
        if len(reply) == 4:
            return Denied(word, *reply[1:])
        return Denied(word, account_rev=reply[1] if word == "stale_account" else None)


def _over_limit(account: PackedAccount, limits: tuple[Limit, ...], reply: Sequence[Any]) -> Denied:
    word, estimate, available, balance, row, left, retry_ms = reply
    limit, holder = limits[row], account.account.holder(limits[row])
    left, retry = max(left, 0), None if retry_ms < 0 else retry_ms
    return Denied(word.decode(), estimate, available, balance, limit, left, retry, limit_of=holder)
