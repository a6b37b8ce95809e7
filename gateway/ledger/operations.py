"""The ledger's verbs: values in, one script call each, values out.

Invariants: every method may be called again with the same arguments after `LedgerUnavailable` or a
cancellation; the scripts know the operation by its id. Packing follows the `ARGV` lines of the
scripts' headers; who changes a header changes it here. A word that a header does not list is a
`LedgerBug`. Amounts are nano-credits, times Unix ms by the ledger's clock, vectors what
`PriceTable.vector` packs.
"""

import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, get_args

from gateway.domain.limits import Limit
from gateway.domain.reservation import (
    Account,
    Affordable,
    Denied,
    DenyReason,
    Extended,
    Hold,
    IdempotencyKey,
    Outcome,
    Quote,
    Rated,
    Repeated,
    Settled,
    Use,
)
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable, TooOld
from gateway.ledger.client.scripts import Runner, Script
from gateway.ledger.codec.packed_account import PackedAccount
from gateway.ledger.codec.records import DueReservation
from gateway.ledger.corrections import Corrections
from gateway.ledger.operator import BAD_INPUT, CLOSED, unexpected
from gateway.ledger.outbox_watermark import OutboxWatermark

__all__ = ["Ledger", "OutboxWatermark", "Prices"]

_RESERVE = struct.Struct("<dddddddIBBHHH")
_QUOTE = struct.Struct("<ddddIBB")
_AFFORD = struct.Struct("<ddddIB")
_RATE = struct.Struct("<BB")
_RESERVED_AT = struct.Struct("<d")
# The mask of the scopes given is the last byte of these: `_run_scoped` changes it.
_EXTEND = struct.Struct("<ddddddB")
_SETTLE = struct.Struct("<dddddIB")
_RELEASE = struct.Struct("<ddddB")
_EXPIRE = struct.Struct("<dddB")

_OUTCOMES: Final = frozenset(get_args(Outcome))
_REASONS: Final = frozenset(get_args(DenyReason))
_DECISIONS: Final = _REASONS | {"allow"}
_BOTH_SCOPES: Final = b"\x03"
_MAX_KNOWN: Final = 8192


class Prices(Protocol):
    """Packed price rows, as a PriceTable has them."""

    @property
    def rows(self) -> bytes:
        """Charges."""
        ...

    @property
    def cost_rows(self) -> bytes:
        """Costs, or empty when unknown."""
        ...


class Ledger(Corrections):
    """The wallets of all customers, through one runner."""

    def __init__(
        self,
        runner: Runner,
        *,
        namespace: str = "cg",
        shard_count: int = 64,
        max_backlog: int = 0,
        seen: OutboxWatermark | None = None,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        """max_backlog: reserves are refused while a shard's outbox has this many entries that the
        store has not acknowledged; 0 is no bound. seen: shared by the ledgers of one process.
        clock_ms: in place of the ledger's own clock, for tests alone."""
        super().__init__(
            runner, namespace=namespace, shard_count=shard_count, seen=seen, clock_ms=clock_ms
        )
        self._max_backlog = max_backlog
        self._known: dict[int, PackedAccount] = {}
        scripts = self._scripts
        self._reserve, self._extend = scripts["reserve"], scripts["extend"]
        self._settle, self._release = scripts["settle"], scripts["release"]
        self._expire, self._quote = scripts["expire"], scripts["quote"]
        self._afford = scripts["afford"]
        self._rate = scripts["rate"]

    async def reserve(
        self,
        account: Account,
        reservation_id: str,
        table: Prices,
        estimate: bytes,
        floor: bytes,
        facts: bytes,
        *,
        tokens: int,
        ttl_ms: int,
        scope_bits: int = 0,
        model: str | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> Hold | Denied:
        """Hold the estimate, all limits included, or nothing.

        estimate, floor: vectors: the bound, and what an expiry charges before the first extend
        facts:           of the event that an expiry would write, msgpack, with `customer_id`
        tokens:          how many the limits on tokens hold
        scope_bits:      model groups that this request's model is in; scoped grants pay for them
        model:           as limits on models name it
        idempotency:     the client's Idempotency-Key: one reservation in all, if it is not released
        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        known = self._known.get(id(account)) or self._know(account)
        shard = account.shard
        body = b"".join((estimate, floor, table.rows, table.cost_rows, known.ids, facts))
        units = len(estimate) >> 3
        rid = reservation_id.encode()
        last = () if idempotency is None else (self.keys.once(shard, idempotency.key),)
        named = () if idempotency is None else (idempotency.body,)
        for _ in range(2):
            limits = known.rows_for(model)
            reply = await self._runner.run(
                self._reserve,
                (
                    known.due,
                    known.out,
                    known.meta,
                    known.account_key,
                    known.prefix + rid,
                    *known.scopes,
                    *last,
                ),
                (
                    _RESERVE.pack(
                        self._clock_ms() if self._clock_ms else 0,
                        self.seen.epochs[shard],
                        self.seen.counts[shard],
                        self._max_backlog,
                        account.account_rev,
                        tokens,
                        ttl_ms,
                        scope_bits,
                        limits.scopes,
                        units,
                        len(table.rows),
                        len(table.cost_rows),
                        len(known.ids),
                    ),
                    rid,
                    body,
                    limits.packed,
                    *named,
                ),
            )
            word = reply[0]
            if word == b"held":
                _, held, available, reserved_at, deadline = reply
                if reserved_at >= limits.fresh_until_ms:
                    known.repack(self.keys, reserved_at)
                return Hold(reservation_id, held, available, reserved_at, deadline)
            if word == b"repeated":
                return Denied("repeated", repeats=Repeated(reply[2].decode(), reply[1] == 1))
            if word != b"stale_windows":
                break
            known.repack(self.keys, reply[1])
        if word == b"went_back":
            self.seen.went_back(shard)
        return _denied(reply, account, limits.limits)

    async def extend(
        self,
        account: Account,
        reservation_id: str,
        table: Prices,
        *,
        extend_no: int,
        estimate: bytes,
        checkpoint: bytes,
        tokens: int,
        ttl_ms: int,
    ) -> Extended | Settled | None:
        """Keep a hold alive; grow it if its estimate has grown.

        extend_no:  from 1, higher at each new call; a repeated one changes nothing
        estimate:   vector of the whole request by now; a smaller one never shrinks the hold
        checkpoint: vector of what an expiry charges from now on
        Answers Settled when the reservation has ended, None when the ledger knows none of that id.
        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        del table  # the hold has kept its price
        known = self._known.get(id(account)) or self._know(account)
        rid = reservation_id.encode()
        mask = known.rows.scopes
        head = _EXTEND.pack(*self._times(account.shard), extend_no, tokens, ttl_ms, mask)
        keys = (known.due, known.out, known.meta, known.account_key, known.prefix + rid)
        args = (rid, estimate, checkpoint)
        reply = await self._run_scoped(self._extend, known, keys, head, args)
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
        return self._settled(account.shard, reservation_id, self._extend, reply)

    async def settle(
        self,
        account: Account,
        reservation_id: str,
        table: Prices,
        used: bytes,
        facts: bytes,
        *,
        tokens: int,
        reserved_at_ms: int,
        scope_bits: int = 0,
    ) -> Settled:
        """Charge what was used, whatever has become of the hold.

        used:           vector, in the order of the table that the reservation was made with
        facts:          of the event, msgpack, with `customer_id`
        reserved_at_ms: as the hold says; without a hold it tells whether it is too late
        Raises LedgerUnavailable, TooOld; ValueError for arguments out of bounds.
        """
        known = self._known.get(id(account)) or self._know(account)
        rid = reservation_id.encode()
        times, mask = self._times(account.shard), known.rows.scopes
        head = _SETTLE.pack(*times, tokens, reserved_at_ms, scope_bits, mask)
        keys = (known.due, known.out, known.meta, known.account_key, known.prefix + rid)
        args = (rid, used, table.rows, table.cost_rows, facts)
        reply = await self._run_scoped(self._settle, known, keys, head, args)
        return self._settled(account.shard, reservation_id, self._settle, reply)

    async def release(
        self,
        account: Account,
        reservation_id: str,
        facts: bytes,
        *,
        reserved_at_ms: int,
        idempotency: str = "",
    ) -> Settled:
        """Give a hold back whole, and make sure that a reserve still on its way comes too late.

        reserved_at_ms: as the hold says; 0 when the reserve's outcome is unknown
        idempotency:    `IdempotencyKey.key` of the reserve, if it had one; it may be used again
        Raises LedgerUnavailable, TooOld.
        """
        known = self._known.get(id(account)) or self._know(account)
        rid = reservation_id.encode()
        head = _RELEASE.pack(*self._times(account.shard), reserved_at_ms, known.rows.scopes)
        keys = (known.due, known.out, known.meta, known.account_key, known.prefix + rid)
        last = (self.keys.once(account.shard, idempotency),) if idempotency else ()
        args = (rid, facts, b"") if idempotency else (rid, facts)
        reply = await self._run_scoped(self._release, known, keys, head, args, last)
        return self._settled(account.shard, reservation_id, self._release, reply)

    async def expire(self, due: DueReservation) -> Settled | None:
        """End a hold whose deadline has passed, charging its checkpoint.

        None when it is not due, or gone. Raises LedgerUnavailable.
        """
        known = PackedAccount(due.account, self.keys)
        rid = due.reservation_id.encode()
        head = _EXPIRE.pack(*self._times(due.shard), 0)
        keys = (known.due, known.out, known.meta, known.account_key, known.prefix + rid)
        reply = await self._run_scoped(self._expire, known, keys, head, (rid,))
        if reply[0] in (b"not_due", b"gone"):
            return None
        return self._settled(due.shard, due.reservation_id, self._expire, reply)

    async def quote(
        self,
        account: Account,
        table: Prices,
        estimate: bytes,
        *,
        tokens: int,
        scope_bits: int = 0,
        model: str | None = None,
    ) -> Quote:
        """What a reserve would answer now; writes nothing.

        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        known = self._known.get(id(account)) or self._know(account)
        fresh_until_ms = known.rows_for(model).fresh_until_ms
        if self._clock_ms is None and time.time_ns() // 1_000_000 >= fresh_until_ms:
            known.repack(self.keys, time.time_ns() // 1_000_000)
        now = self._clock_ms() if self._clock_ms else 0
        shard, limits = account.shard, known.rows_for(model)
        reply = await self._runner.run(
            self._quote,
            (known.meta, known.account_key, *known.scopes),
            (
                _QUOTE.pack(
                    now,
                    self.seen.epochs[shard],
                    self.seen.counts[shard],
                    tokens,
                    scope_bits,
                    limits.scopes,
                    len(estimate) >> 3,
                ),
                estimate,
                table.rows,
                limits.packed,
            ),
        )
        word = reply[0].decode()
        if word in BAD_INPUT:
            raise ValueError(f"quote: {word}")
        if word not in _DECISIONS:
            if word in CLOSED:
                raise self._closed(shard, word)
            raise unexpected(self._quote, word)
        estimate_nano, available, balance = reply[1:] if len(reply) == 4 else (0, 0, 0)
        return Quote(estimate_nano, available, balance, word)

    async def afford(
        self,
        account: Account,
        table: Prices,
        least: bytes,
        step: bytes,
        steps: int,
        *,
        scope_bits: int = 0,
    ) -> Affordable:
        """How much of a request the wallet can pay for now: the vector `least`, and of so many
        steps more those that are available. Limits are not asked; writes nothing.

        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        known = self._known.get(id(account)) or self._know(account)
        head = _AFFORD.pack(*self._times(account.shard), steps, scope_bits, len(least) >> 3)
        keys = (known.meta, known.account_key)
        reply = await self._runner.run(self._afford, keys, (head, least, step, table.rows))
        word = reply[0].decode()
        if word == "affordable":
            _, estimate, available, balance, fits, open_reservations = reply
            return Affordable(fits, open_reservations, estimate, available, balance, "allow")
        if word in BAD_INPUT:
            raise ValueError(f"afford: {word}")
        if word in CLOSED:
            raise self._closed(account.shard, word)
        if word not in _REASONS:
            raise unexpected(self._afford, word)
        _, estimate, available, balance = reply
        return Affordable(0, 0, estimate, available, balance, word)

    async def rate(
        self, table: Prices, uses: Sequence[Use], *, billing_day: int, periods: bytes = b""
    ) -> Rated:
        """What past uses of one customer come to at a price; no wallet is read or written.

        uses:    in the order of their reserves, at most MAX_USES
        periods: as the call before left them; nothing at first
        Raises LedgerUnavailable; ValueError for arguments out of bounds.
        """
        units = len(uses[0].used) >> 3 if uses else 0
        packed = b"".join(_RESERVED_AT.pack(use.reserved_at_ms) + use.used for use in uses)
        head = _RATE.pack(billing_day, units)
        args = (
            head,
            table.rows if uses else b"",
            table.cost_rows if uses else b"",
            periods,
            packed,
        )
        word, *rated = await self._runner.run(self._rate, (), args)
        if word.decode() in BAD_INPUT:
            raise ValueError(f"rate: {word.decode()}")
        if word != b"rated":
            raise unexpected(self._rate, word.decode())
        after, *amounts = rated
        return Rated(tuple(amounts[::2]), tuple(amounts[1::2]), after)

    # How

    def _know(self, account: Account) -> PackedAccount:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        known = PackedAccount(account, self.keys)
        if account.limits:
            # Only a first guess of the windows: the script picks by its own clock, or says so.
            now_ms = self._clock_ms() if self._clock_ms else time.time_ns() // 1_000_000
            known.repack(self.keys, now_ms)
        self._known[id(account)] = known  # it keeps the account alive, so the id stays its own
        return known

    async def _run_scoped(
        self,
        script: Script,
        known: PackedAccount,
        keys: tuple[bytes, ...],
        head: bytes,
        args: tuple[bytes, ...],
        last: tuple[bytes, ...] = (),
    ) -> list[Any]:
        """Run with the scopes of the account's limits; if the hold counts in others, with those."""
        reply = await self._runner.run(script, (*keys, *known.scopes, *last), (head, *args))
        if reply[0] != b"wrong_scopes":
            return reply
        customer_id, key_id, project_id = reply[1].decode().split("\0")
        holder = Account(customer_id, key_id, known.account.shard, 0, project_id or None)
        scopes = self.keys.scopes(holder, _BOTH_SCOPES[0])
        return await self._runner.run(
            script, (*keys, *scopes, *last), (head[:-1] + _BOTH_SCOPES, *args)
        )

    def _settled(
        self, shard: int, reservation_id: str, script: Script, reply: Sequence[Any]
    ) -> Settled:
        word = reply[0].decode()
        differs = word == "exists_with_different_usage"
        outcome = reply[6].decode() if differs else word
        if outcome not in _OUTCOMES:
            if word in BAD_INPUT or word in ("exists_with_different_prices", "total_too_large"):
                raise ValueError(f"{script.name} of {reservation_id}: {word}")
            if word == "too_old":
                raise TooOld(f"{script.name} of {reservation_id}: {word}")
            if word in CLOSED:
                raise self._closed(shard, word)
            raise unexpected(script, word)
        _, charged, balance, epoch, seq, replayed = reply[:6]
        if epoch:
            self.seen.note(shard, epoch, seq)
        return Settled(
            outcome, charged, balance, f"{reservation_id}:{outcome}", replayed == 1, differs
        )


def _denied(reply: Sequence[Any], account: Account, limits: tuple[Limit, ...]) -> Denied:
    word = reply[0].decode()
    if word in BAD_INPUT:
        raise ValueError(f"reserve: {word}")
    if word == "wrong_layout":
        raise LedgerUnavailable("the shard's records have a layout that this release cannot read")
    if word not in _REASONS:
        raise LedgerBug(f"reserve answered {word!r}, which its header does not list")
    if len(reply) == 7:
        _, estimate, available, balance, row, left, retry_ms = reply
        retry = None if retry_ms < 0 else retry_ms
        limit = limits[row]
        of = account.holder(limit)
        return Denied(word, estimate, available, balance, limit, max(left, 0), retry, limit_of=of)
    if len(reply) == 4:
        return Denied(word, *reply[1:])
    return Denied(word, account_rev=reply[1] if word == "stale_account" else None)
