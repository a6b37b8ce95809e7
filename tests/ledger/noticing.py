"""What a wallet announces, in exact integers: the only second implementation of the signals.

It follows the prose of `lua/README.md`, *Signals*: asked at every step that moves a balance, where
the scripts ask only when something is crossed. The model of the ledger announces with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.domain.signals import SignalRules

HOUR_MS = 3_600_000
WEEK_HOURS = 168

Said = tuple[str | int, ...]
"""Name and numbers, as in a stamp."""


class Dated(Protocol):
    """What is asked of a grant."""

    no: int
    category: str
    remaining: int
    expires_at: int
    created_at: int


@dataclass(slots=True)
class Noticing:
    """One wallet's rules, and what it has announced by them.

    announced: thresholds, and `exhausted`. hours: a code each, the oldest first
    """

    rules: SignalRules
    announced: set[int | str] = field(default_factory=set)
    told_expiring_up_to: int = 0
    asked_at: int = 0
    asking_since: int = 0
    asked: int = 0
    hour: int = 0
    settled_before: int = 0
    hours: list[int] = field(default_factory=list)
    fast: bool = False

    def follow(self, rules: SignalRules) -> None:
        """Other rules: a threshold that stays remembers whether it was announced."""
        stay = {*rules.low_balance_nano, *(["exhausted"] if rules.exhausted else [])}
        self.announced &= stay
        self.told_expiring_up_to = 0
        self.rules = rules

    def notice(
        self,
        balance: int,
        credit_limit: int,
        grants: Sequence[Dated],
        lifetime: tuple[int, int],
        spent: int,
        now: int,
    ) -> tuple[list[Said], bool]:
        """What this step announces; and whether it freezes the wallet.

        lifetime: what was ever granted, and settled. spent: what this step added to settled
        """
        granted, settled = lifetime
        begun = granted + settled > 0
        said = self._levels(balance, credit_limit, begun)
        said += self._expiring(grants, now)
        said += self._topup(balance, begun, now)
        fast = self._velocity(settled, spent, now)
        freezes = bool(fast and self.rules.velocity and self.rules.velocity.freeze)
        return said + fast, freezes

    def _levels(self, balance: int, credit_limit: int, begun: bool) -> list[Said]:
        said: list[Said] = []
        levels: list[tuple[int | str, str, int, bool]] = [
            (level, "low_balance", level, balance < level)
            for level in sorted(self.rules.low_balance_nano, reverse=True)
        ]
        if self.rules.exhausted:
            levels.append(("exhausted", "exhausted", -credit_limit, balance <= -credit_limit))
        back = [says for key, _, says, below in levels if not below and key in self.announced]
        for key, name, says, below in levels:
            if not below:
                self.announced.discard(key)
            elif begun and key not in self.announced:
                self.announced.add(key)
                said.append((name, says))
        return said + ([("recovered", max(back))] if back else [])

    def _expiring(self, grants: Sequence[Dated], now: int) -> list[Said]:
        before = self.rules.expiring_before_ms
        if not before:
            return []
        said: list[Said] = [
            ("grant_expiring", grant.no, grant.remaining, grant.expires_at)
            for grant in grants
            if grant.category != "allowance" and grant.remaining > 0
            if grant.created_at <= grant.expires_at - before <= now < grant.expires_at
            if grant.expires_at > self.told_expiring_up_to
        ]
        self.told_expiring_up_to = max(self.told_expiring_up_to, now + before)
        return said

    def _topup(self, balance: int, begun: bool, now: int) -> list[Said]:
        topup = self.rules.topup
        if topup is None or not begun or balance >= topup.threshold_nano:
            return []
        if now >= self.asking_since + topup.period_ms:
            self.asked = 0
        cool = not self.asked_at or now >= self.asked_at + topup.cooldown_ms
        if self.asked >= topup.max_per_period or not cool:
            return []
        if self.asked == 0:
            self.asking_since = now
        self.asked_at, self.asked = now, self.asked + 1
        return [("topup_wanted", topup.threshold_nano, topup.amount_nano, self.asked)]

    def _velocity(self, settled: int, spent: int, now: int) -> list[Said]:
        velocity = self.rules.velocity
        if velocity is None:
            return []
        this = now - now % HOUR_MS
        if not self.hour:
            self.hour, self.settled_before = this, settled - spent
        elif this > self.hour:
            self.hours.append(coded(max(0, settled - spent - self.settled_before)))
            self.hours += [0] * min(WEEK_HOURS, (this - self.hour) // HOUR_MS - 1)
            self.hours = self.hours[-WEEK_HOURS:]
            self.hour, self.settled_before, self.fast = this, settled - spent, False
        if self.fast or len(self.hours) < max(1, velocity.least_hours):
            return []
        usual = decoded(sorted(self.hours)[(len(self.hours) - 1) // 2])
        most = max(velocity.floor_nano, usual * velocity.factor_thousandths // 1000)
        so_far = settled - self.settled_before
        self.fast = so_far > most
        return [("spending_fast", so_far, usual, int(velocity.freeze))] if self.fast else []


def coded(nano: int) -> int:
    """round(5 × log2(nano / 1000 + 1)), in integers: the least c with 2^(c + ½) > x^5."""
    code = 0
    while (nano + 1000) ** 10 >= 2 ** (2 * code + 1) * 1000**10:
        code += 1
    return code


def decoded(code: int) -> int:
    """floor(1000 × (2^(c / 5) − 1)), in integers: the largest n with (n + 1000)^5 ≤ 1000^5 × 2^c."""
    low, high = 0, 1 << (code // 5 + 11)
    while low < high:
        middle = (low + high + 1) // 2
        if (middle + 1000) ** 5 <= 1000**5 * 2**code:
            low = middle
        else:
            high = middle - 1
    return low


def as_said(said: Sequence[Sequence[Any]]) -> tuple[Said, ...]:
    """Signals of a stamp, to be compared."""
    return tuple(tuple(one) for one in said)
