"""How long a balance lasts, if spending goes on as it did: grants in burn order, with their expiries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.ledger.codec.wallet_records import Grant, Wallet

DAY_MS: Final = 86_400_000
_STEPS_MOST: Final = 500


@dataclass(frozen=True, slots=True)
class Forfeit:
    """What of a grant would expire unused."""

    at_ms: int
    grant_no: int
    amount_nano: int


@dataclass(frozen=True, slots=True)
class Projection:
    """The balance from now on. Times in Unix ms.

    points:        (moment, balance in nano-credits), straight lines in between
    exhausted_ms:  when nothing is available any more, the credit limit included; None if not before
                   the end
    forfeits:      what would be lost at each grant's expiry
    """

    points: Sequence[tuple[int, int]]
    exhausted_ms: int | None
    forfeits: Sequence[Forfeit]


def project(wallet: Wallet, nano_per_day: int, now_ms: int, until_ms: int) -> Projection:
    """Project the balance. Grants that begin later join when they do; recurring ones are not known.

    Grants are spent in the wallet's order, which is the burn order.
    """
    left = [replace(grant, remaining_nano=grant.remaining_nano) for grant in wallet.grants]
    balance = wallet.balance_nano(now_ms)
    points, forfeits = [(now_ms, balance)], []
    at, exhausted = now_ms, None
    floor = -wallet.credit_limit_nano
    if balance <= floor and nano_per_day:
        exhausted = now_ms
    for _ in range(_STEPS_MOST):
        active = [grant for grant in left if grant.active(at) and grant.remaining_nano > 0]
        turn = min((m for grant in left for m in _turns(grant) if m > at), default=until_ms)
        turn = min(turn, until_ms)
        first = active[0].remaining_nano if active else None
        if nano_per_day and first is not None:
            turn = min(turn, at + max(1, _ceil(first * DAY_MS, nano_per_day)))
        spent = nano_per_day * (turn - at) // DAY_MS
        left = _spend(left, at, spent)
        before = balance
        balance -= spent
        if exhausted is None and nano_per_day and balance <= floor:
            exhausted = at + _ceil((before - floor) * DAY_MS, nano_per_day)
            points.append((min(exhausted, turn), floor))
            break
        points.append((turn, balance))
        for grant in left:
            if 0 < grant.expires_at_ms == turn and grant.remaining_nano > 0:
                balance -= grant.remaining_nano
                forfeits.append(Forfeit(turn, grant.no, grant.remaining_nano))
                points.append((turn, balance))
            elif grant.effective_at_ms == turn:
                balance += grant.remaining_nano
                points.append((turn, balance))
        at = turn
        if at >= until_ms:
            break
    return Projection(points, exhausted, forfeits)


def _turns(grant: Grant) -> tuple[int, ...]:
    """When a grant begins or ends to count."""
    if grant.remaining_nano <= 0:
        return ()
    return (grant.effective_at_ms, grant.expires_at_ms)


def _spend(grants: list[Grant], at_ms: int, nano: int) -> list[Grant]:
    spent = []
    for grant in grants:
        taken = min(nano, grant.remaining_nano) if grant.active(at_ms) else 0
        nano -= taken
        spent.append(replace(grant, remaining_nano=grant.remaining_nano - taken))
    return spent


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
