"""The ledger in exact integers and fractions: the only second implementation of its rules.

Small and slow on purpose. It follows the prose of `lua/README.md`, not the scripts: lists of
grants, dictionaries of holds, a list of events. `test_oracle.py` compares the two at every step.
"""

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.domain.limits import Limit, window_borders_ms
from gateway.domain.pricing import PriceTable
from gateway.domain.signals import SignalRules
from tests.ledger import rating
from tests.ledger.noticing import Noticing
from tests.ledger.rating import Mark, rows_of
from tests.ledger.wallet import (
    DEAD_AFTER_MS,
    FOREVER,
    GROWTH_MARK_MS,
    NOT_TOKENS,
    SETTLE_MAX_AGE_MS,
    Charge,
    Entry,
    ModelAllowance,
    ModelCounter,
    ModelEnded,
    ModelGrant,
    ModelHold,
    ModelWallet,
    Parts,
    Status,
    Terms,
    Told,
    record_of,
    window_of,
)


class Model:
    """All wallets, holds and events. Methods answer the words of the scripts."""

    def __init__(self) -> None:
        self.wallets: dict[str, ModelWallet] = {}
        self.holds: dict[str, ModelHold] = {}
        self.ended: dict[str, ModelEnded] = {}
        self.ops: dict[str, tuple[Any, ...]] = {}
        self.notes: set[tuple[str, str]] = set()
        self.events: Told = []
        """What no test has compared yet."""
        self.charges: dict[str, Charge] = {}
        self.refunded: dict[str, int] = {}
        self.refusal: tuple[Limit, int, int | None] | None = None
        """The limit that refused last, what was left in it, and for how long it will refuse."""

    def saved(self) -> dict[str, Any]:
        """All of it, to go back to."""
        flat = ("wallets", "ended", "ops", "notes", "events", "charges", "refunded", "refusal")
        copies: dict[str, Any] = {name: copy.copy(getattr(self, name)) for name in flat}
        return copies | {"holds": {rid: hold.copied() for rid, hold in self.holds.items()}}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what was saved; it may be gone back to again."""
        for name, value in saved.items():
            setattr(self, name, copy.copy(value))
        self.holds = {rid: hold.copied() for rid, hold in self.holds.items()}

    def begin(self, customer: str, now: int) -> tuple[ModelWallet, Told]:
        """A wallet to change and to keep if the operation is done, after what time has done."""
        wallet = self.wallets[customer].copied()
        return wallet, wallet.catch_up(now)

    def keep(self, wallet: ModelWallet, told: Told) -> None:
        self.wallets[wallet.customer] = wallet
        self.events += told

    def account(
        self, customer: str, terms: tuple[int, int, Status, int] | None, now: int
    ) -> tuple[str, int]:
        """terms: revision, credit limit, status, billing day; None raises the revision alone."""
        self.wallets.setdefault(customer, ModelWallet(customer))
        wallet, told = self.begin(customer, now)
        has = (wallet.rev, wallet.credit_limit, wallet.status, wallet.billing_day)
        terms = terms or (wallet.rev + 1, *has[1:])
        if terms[0] < wallet.rev:
            return "old_revision", wallet.rev
        if terms[0] == wallet.rev:
            return "unchanged" if terms == has else "different", wallet.rev
        wallet.rev, wallet.credit_limit, wallet.status, wallet.billing_day = terms
        event_id, signals = f"account:{customer}:{wallet.rev}", wallet.notice(now)
        self.keep(wallet, [*told, wallet.entry("account", event_id, 0, now, signals=signals)])
        return "updated", wallet.rev

    def signals(self, customer: str, rules: SignalRules, now: int) -> bool:
        wallet, told = self.begin(customer, now)
        if rules == (wallet.noticing.rules if wallet.noticing else SignalRules()):
            return False
        if rules == SignalRules():
            wallet.noticing = None
        elif wallet.noticing is None:
            wallet.noticing = Noticing(rules)
        else:
            wallet.noticing.follow(rules)
        said = wallet.notice(now)
        told.append(wallet.entry("signals", f"signals:{customer}", 0, now, signals=said))
        self.keep(wallet, told)
        return True

    def note(self, customer: str, op: str) -> bool:
        if (customer, op) in self.notes:
            return False
        self.notes.add((customer, op))
        self.events.append(Entry(customer, "audit", op, 0, 0))
        return True

    def grant(self, customer: str, op: str, terms: tuple[Any, ...], now: int) -> str:
        if op in self.ops:
            return "replayed" if self.ops[op] == ("grant", terms) else "different"
        amount, category, priority, bits, effective_at, expires_at = terms
        if 0 < expires_at <= max(now, effective_at):
            return "already_expired"
        wallet, told = self.begin(customer, now)
        wallet.drop_exhausted()
        if len(wallet.grants) >= 64:
            return "too_many_grants"
        wallet.credit(
            ModelGrant(wallet.new_no(), category, priority, bits, 0, effective_at, expires_at, now),
            amount,
            now,
        )
        wallet.terms[wallet.next_no - 1] = (category, priority, bits, expires_at)
        self.ops[op] = ("grant", terms)
        said = wallet.notice(now)
        self.keep(wallet, [*told, wallet.entry("grant", op, amount, now, signals=said)])
        return "granted"

    def allowance(self, customer: str, name: str, terms: tuple[Any, ...], now: int) -> bool:
        wallet, told = self.begin(customer, now)
        number = zlib.crc32(name.encode())
        allowance = ModelAllowance(*terms)
        known = wallet.allowances.get(number)
        if known is not None:
            same = (known.period, known.category, known.priority, known.day, known.bits)
            if (*same, known.amount, known.rollover) == terms:
                return False
            allowance.start, allowance.end = known.start, known.end
            allowance.grant, allowance.carry = known.grant, known.carry
        if allowance.amount:
            wallet.allowances[number] = allowance
        elif known is None:
            return False
        else:
            del wallet.allowances[number]
        entry = wallet.entry("allowance", f"allowance:{customer}:{number}:set", 0, now)
        opened = wallet.catch_up(now)
        self.keep(wallet, [*told, replace(entry, signals=wallet.notice(now)), *opened])
        return True

    def sweep(self, customer: str, due: bool, now: int) -> int:
        """due: whether the wallet said that time has something to do."""
        wallet, told = self.begin(customer, now)
        said = wallet.notice(now)
        if not due:
            assert not told, "time has done something that the wallet did not see coming"
            assert not any(name == "grant_expiring" for name, *_ in said), said
            return 0
        if said:
            told.append(wallet.entry("signals", f"signals:{customer}", 0, now, signals=said))
        self.keep(wallet, told)
        return len(told)

    def void(self, customer: str, op: str, no: int, now: int) -> tuple[str, int]:
        if op in self.ops:
            return (
                ("replayed", self.ops[op][2])
                if self.ops[op][:2] == ("void", no)
                else ("different", 0)
            )
        wallet, told = self.begin(customer, now)
        grant = wallet.grant_named(no)
        if grant is None or grant.remaining == grant.held:
            return "unknown_grant", 0
        taken = grant.remaining - grant.held
        grant.remaining, grant.expires_at = grant.held, now
        wallet.voided += taken
        if no in wallet.terms:
            wallet.terms[no] = (*wallet.terms[no][:3], now)
        self.ops[op] = ("void", no, taken)
        said, moved = wallet.notice(now), [(no, taken)]
        self.keep(wallet, [*told, wallet.entry("void", op, taken, now, signals=said, moved=moved)])
        return "voided", taken

    def refund(
        self, op: str, event: str, amount: int, known: Mapping[int, Terms], now: int
    ) -> tuple[str, int]:
        """known: terms of some of the grants that paid."""
        charge, before = self.charges[event], self.refunded.get(event, 0)
        if op in self.ops:
            same = self.ops[op] == ("refund", event, amount)
            return ("replayed", charge.net - before) if same else ("different", 0)
        if before + amount > charge.net:
            return "more_than_charged", 0
        wallet, told = self.begin(charge.customer, now)
        # From the end: what was given back before, then this.
        skip, left, own = sum(part for _, part in charge.paid) - charge.net + before, amount, 0
        moved: dict[int, int] = {}
        for no, part in reversed(charge.paid):
            passed = min(skip, part)
            skip, part = skip - passed, min(part - passed, left)
            left -= part
            grant, terms = wallet.grant_named(no), known.get(no)
            ends = grant.expires_at if grant else terms[3] if terms else 0
            if not part:
                continue
            if no == 0 or 0 < ends <= now or not (grant or terms):
                own += part
                continue
            if grant:
                grant.remaining += part
            elif terms:
                wallet.add(ModelGrant(no, *terms[:3], part, 0, ends, now))
            moved[no] = moved.get(no, 0) + part
        self._credit(wallet, own, now, priority=255)
        if len(wallet.grants) > 64:
            wallet.drop_exhausted()
            if len(wallet.grants) > 64:
                return "too_many_grants", 0
        wallet.adjusted += amount
        self.ops[op], self.refunded[event] = ("refund", event, amount), before + amount
        said = wallet.notice(now)
        self.keep(wallet, [*told, wallet.entry("adjust", op, amount, now, signals=said)])
        return "refunded", charge.net - before - amount

    def adjust(self, customer: str, op: str, amount: int, now: int) -> str:
        if op in self.ops:
            return "replayed" if self.ops[op] == ("adjust", amount) else "different"
        wallet, told = self.begin(customer, now)
        if amount < 0:
            wallet.take(-amount, now, 0xFFFFFFFF)
        else:
            wallet.drop_exhausted()
            if len(wallet.grants) >= 64 and amount > wallet.overdraft:
                return "too_many_grants"
            self._credit(wallet, amount, now, priority=100)
        wallet.adjusted += amount
        self.ops[op] = ("adjust", amount)
        said = wallet.notice(now)
        self.keep(wallet, [*told, wallet.entry("adjust", op, amount, now, signals=said)])
        return "adjusted"

    def reserve(
        self,
        customer: str,
        rid: str,
        table: PriceTable,
        estimate: dict[str, int],
        checkpoint: dict[str, int],
        tokens: int,
        ttl: int,
        bits: int,
        limits: Sequence[Limit],
        scopes: Mapping[str, str],
        now: int,
    ) -> tuple[str, int]:
        if rid in self.ended:
            return "already_ended", 0
        if rid in self.holds:
            return "held", self.holds[rid].held
        wallet, told = self.begin(customer, now)
        rows = rows_of(table)
        rated = rating.estimate(rows, estimate, wallet.periods, None, now, wallet.billing_day)
        amount = rated.charge_nano
        if wallet.status != "active":
            return "wallet_frozen", amount
        refused = None
        longest = -1
        staged = []
        for limit in limits:
            counter, ends = self._counter(wallet, limit, scopes, now)
            adds = {"spend": amount, "tokens": tokens}.get(limit.measure, 1)
            left = limit.ceiling - counter.used - counter.held
            if adds > left and counter.wait(limit, adds, ends, now) > longest:
                longest = counter.wait(limit, adds, ends, now)
                refused = {
                    "spend": "spend_limit",
                    "concurrent": "concurrency_limit",
                }.get(limit.measure, "rate_limit")
                wait = None if longest == FOREVER else longest
                self.refusal = (limit, max(0, left), wait)
            staged.append((limit, counter.window, adds))
        if amount and amount > wallet.payable(now, bits):
            return "insufficient_credits", amount
        if refused:
            return refused, amount
        stands_back = 0 < wallet.growth_wanted_until - now <= GROWTH_MARK_MS
        if amount and (amount > wallet.available(now, bits) or stands_back):
            return "credit_held", amount
        parts: dict[int, int] = {}
        wallet.hold(amount, now, bits, parts)
        for limit, window, adds in staged:
            counter, _ = self._counter(wallet, limit, scopes, now, roll=True)
            counter.add(window, 0, adds)
        self.holds[rid] = ModelHold(
            customer,
            amount,
            parts,
            bits,
            estimate,
            checkpoint,
            rows,
            now + ttl,
            tokens,
            staged,
            scopes,
            rated.marks,
        )
        rating.move(wallet.periods, rated.moves)
        self.keep(wallet, told)
        return "held", amount

    def extend(
        self,
        rid: str,
        extend_no: int,
        estimate: dict[str, int],
        checkpoint: dict[str, int],
        tokens: int,
        ttl: int,
        now: int,
    ) -> tuple[str, int]:
        if rid in self.ended:
            return self.ended[rid].outcome, self.ended[rid].charged
        hold = self.holds.get(rid)
        if hold is None:
            return "unknown_reservation", 0
        wallet, told = self.begin(hold.customer, now)
        rating.move(wallet.periods, hold.kept(), -1)
        rated = rating.estimate(hold.rows, estimate, wallet.periods, hold.marks, now, 0)
        total = rated.charge_nano
        if extend_no <= hold.extend_no:
            return ("not_grown" if total > hold.held else "extended"), hold.held
        growth, more = max(0, total - hold.held), max(0, tokens - hold.tokens)
        refused = growth > 0 and growth > wallet.available(now, hold.bits)
        held_by_others = refused and growth <= wallet.payable(now, hold.bits) - hold.held
        if wallet.status == "killed" or (growth and wallet.status == "frozen"):
            refused, held_by_others = True, False
        live = []
        for limit, window, _ in hold.counted:
            adds = {"spend": growth, "tokens": more}.get(limit.measure, 0)
            counter = self._known(wallet, limit, hold.scopes)
            if not counter.counts(window):
                adds = 0
            if adds and counter.used + counter.held + adds > limit.ceiling:
                refused = True
            live.append((counter, adds))
        hold.deadline, hold.extend_no, hold.checkpoint = now + ttl, extend_no, checkpoint
        if held_by_others:
            self.wallets[hold.customer].growth_wanted_until = now + GROWTH_MARK_MS
        if refused:
            return "not_grown", hold.held
        if growth or more:
            wallet.hold(growth, now, hold.bits, hold.parts)
            hold.held += growth
            hold.tokens += more
            hold.estimate = estimate
            for at, (counter, adds) in enumerate(live):
                limit, window, held = hold.counted[at]
                counter.add(window, 0, adds)
                hold.counted[at] = (limit, window, held + adds)
            rating.move(wallet.periods, hold.kept())
            self.keep(wallet, told)
        return "extended", hold.held

    def settle(
        self,
        customer: str,
        rid: str,
        table: PriceTable,
        usage: dict[str, int],
        tokens: int,
        reserved_at: int,
        now: int,
    ) -> tuple[str, int]:
        rows = rows_of(table)
        if rid in self.holds:
            return "settled", self._end(rid, "settled", "settle", usage, 1, tokens, now)
        wallet, told = self.begin(customer, now)
        ended = self.ended.get(rid)
        if ended is None:
            if now - reserved_at > SETTLE_MAX_AGE_MS:
                return "too_old", 0
            marks = [
                (rating.opened(wallet.periods, row, reserved_at, wallet.billing_day).start, 0)
                for row in rows
                if row.counter is not None
            ]
            rated = rating.charge(rows, usage, wallet.periods, marks)
            rating.move(wallet.periods, rated.moves)
            charge = max(0, rated.charge_nano)
            paid = wallet.take(charge, now, 0)
            wallet.settled += charge
            self.ended[rid] = ModelEnded("settled", charge, usage)
            entry = wallet.entry("settle", f"{rid}:settled", charge, now, moved=paid)
            self._charged(wallet, rid, entry, rated.charge_nano, now, told)
            return "settled", charge
        if ended.outcome != "expired":
            if ended.outcome != "released" and ended.usage != usage:
                return "differs", ended.charged
            return ended.outcome, ended.charged
        rated = rating.charge(rows, usage, wallet.periods, ended.marks, ended.usage)
        rating.move(wallet.periods, rated.moves)
        whole = rated.charge_nano + ended.credited
        charge = max(0, whole)
        more = charge - ended.charged
        for limit, window, counted in ended.counted:
            used = {"spend": charge, "tokens": tokens}.get(limit.measure)
            if used is not None:
                self._known(wallet, limit, _SCOPES).add(window, used - counted, 0)
        paid = (
            wallet.take(more, now, 0)
            if more >= 0
            else self._give_back(wallet, -more, ended.paid, now)
        )
        wallet.settled += more
        self.ended[rid] = ModelEnded("settled_late", charge, usage)
        if ended.charged:
            net = ended.charged + min(0, more)
            self.charges[f"{rid}:expired"] = Charge(customer, net, tuple(ended.paid))
        entry = wallet.entry("settle_late", f"{rid}:settled_late", more, now, moved=paid)
        self._charged(wallet, rid, entry, whole, now, told)
        return "settled_late", charge

    def release(self, rid: str, reserved_at: int, now: int) -> tuple[str, int]:
        if rid in self.holds:
            self._end(rid, "released", "release", {}, 0, 0, now)
            return "released", 0
        ended = self.ended.get(rid)
        if ended is not None:
            return ended.outcome, ended.charged
        if 0 < reserved_at < now - SETTLE_MAX_AGE_MS:
            return "too_old", 0
        self.ended[rid] = ModelEnded("released", 0, {})
        return "released", 0

    def expire(self, rid: str, now: int) -> tuple[str, int]:
        hold = self.holds.get(rid)
        if hold is None:
            ended = self.ended.get(rid)
            return (ended.outcome, ended.charged) if ended else ("gone", 0)
        if now < hold.deadline:
            return "not_due", 0
        usage = hold.checkpoint
        tokens = sum(quantity for unit, quantity in usage.items() if unit not in NOT_TOKENS)
        return "expired", self._end(rid, "expired", "expire", usage, 1, tokens, now)

    def _end(
        self,
        rid: str,
        outcome: str,
        kind: str,
        usage: dict[str, int],
        requests: int,
        tokens: int,
        now: int,
    ) -> int:
        hold = self.holds.pop(rid)
        wallet, told = self.begin(hold.customer, now)
        rating.move(wallet.periods, hold.kept(), -1)
        marks: list[Mark] = []
        whole = charge = 0
        if outcome != "released":
            rated = rating.charge(hold.rows, usage, wallet.periods, hold.marks)
            rating.move(wallet.periods, rated.moves)
            whole, marks = rated.charge_nano, rated.marks
            charge = max(0, whole)
        counted = []
        for limit, window, held in hold.counted:
            used = {"spend": charge, "requests": requests, "tokens": tokens}.get(limit.measure, 0)
            self._known(wallet, limit, hold.scopes).add(window, used, -held)
            counted.append((limit, window, used))
        wallet.unhold(hold.parts)
        left, paid = charge, []
        for no, part in hold.parts.items():
            grant = wallet.grant_named(no)
            part = min(part, left)
            if grant is not None and part:
                grant.remaining -= part
                paid.append((no, part))
                left -= part
        for no, part in wallet.take(left, now, hold.bits):
            known = next((at for at, (other, _) in enumerate(paid) if other == no), None)
            if known is None:
                paid.append((no, part))
            else:
                paid[known] = (no, paid[known][1] + part)
        wallet.settled += charge
        self.ended[rid] = ModelEnded(
            outcome, charge, usage, paid, counted, hold.held, marks, max(0, -whole)
        )
        moved = None if outcome == "released" else paid
        entry = wallet.entry(kind, f"{rid}:{outcome}", charge, now, moved=moved)
        self._charged(wallet, rid, entry, whole, now, told)
        return charge

    def _charged(
        self, wallet: ModelWallet, rid: str, entry: Entry, charge: int, now: int, told: Told
    ) -> None:
        """The end of what charges: a step of a volume tier gives back, and time may do the rest."""
        after: Told = []
        if charge < 0:
            self._credit(wallet, -charge, now, priority=255)
            wallet.adjusted -= charge
            name = "repriced_late" if entry.kind == "settle_late" else "repriced"
            after.append(wallet.entry("adjust", f"{rid}:{name}", -charge, now))
        after += wallet.catch_up(now)
        if entry.kind in ("settle", "settle_late") and entry.amount > 0:
            self.charges[entry.id] = Charge(wallet.customer, entry.amount, entry.moved or ())
        signals = wallet.notice(now, entry.amount)
        self.keep(wallet, [*told, replace(entry, signals=signals), *after])

    def _credit(self, wallet: ModelWallet, amount: int, now: int, *, priority: int) -> None:
        repaid = min(wallet.overdraft, amount)
        wallet.overdraft -= repaid
        if amount > repaid:
            open_one = next((g for g in wallet.grants if priority == 255 and g.burned_last), None)
            if open_one is not None:
                open_one.remaining += amount - repaid
                return
            no = wallet.new_no()
            wallet.add(ModelGrant(no, "adjustment", priority, 0, amount - repaid, 0, 0, now))

    def _give_back(
        self, wallet: ModelWallet, amount: int, paid: Sequence[tuple[int, int]], now: int
    ) -> Parts:
        """What each was given, below 0."""
        repaid = min(wallet.overdraft, amount)
        wallet.overdraft -= repaid
        given = [(0, -repaid)]
        amount -= repaid
        for no, part in reversed(paid):
            grant = wallet.grant_named(no)
            if grant is not None:
                part = min(part, amount)
                grant.remaining += part
                given.append((no, -part))
                amount -= part
        if amount:
            given.append((wallet.next_no, -amount))
            wallet.add(ModelGrant(wallet.new_no(), "adjustment", 255, 0, amount, 0, 0, now))
        return [(no, part) for no, part in given if part]

    def _counter(
        self,
        wallet: ModelWallet,
        limit: Limit,
        scopes: Mapping[str, str],
        now: int,
        *,
        roll: bool = False,
    ) -> tuple[ModelCounter, int]:
        """The counter as it stands in the window of `now`, and when that ends. A counter from a
        later window stays; `roll` makes the change last."""
        if limit.rolling:
            start, ends = now - now % limit.slot_ms, 0
        else:
            _, start, ends, _ = window_borders_ms(window_of(limit), now)
        who = record_of(limit), scopes[record_of(limit)]
        key = (*who, limit.counter_id)
        counter = wallet.counters.get(key)
        if roll and counter is None:
            wallet.counters = {
                other: known
                for other, known in wallet.counters.items()
                if other[:2] != who or not 0 < known.window < now - DEAD_AFTER_MS
            }
        if counter is None:
            counter = ModelCounter(start, limit.slot_ms if limit.rolling else 0)
        elif not roll:
            counter = counter.copied()
        counter.move(start)
        if roll:
            wallet.counters[key] = counter
        return counter, ends + counter.window - start

    def _known(self, wallet: ModelWallet, limit: Limit, scopes: Mapping[str, str]) -> ModelCounter:
        """The counter of a hold's limit; one that nobody keeps where it is gone."""
        key = (record_of(limit), scopes[record_of(limit)], limit.counter_id)
        return wallet.counters.get(key) or ModelCounter(-1)


_SCOPES = {"customer": "", "project": "team", "key": "k1"}
