"""A process that dies, or loses the ledger, at any step: the next delivery ends in the same sums."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.payments import Payments
from gateway.ledger.wallets import Wallets
from tests.support.console import Console
from tests.support.webhooks import Stripe, charge, dispute, intent, refund, wallet

STEPS: list[tuple[type, str]] = [
    (Payments, "update"),
    (Payments, "open_dispute"),
    (Payments, "closing_dispute"),
    (Payments, "close_dispute"),
    (Wallets, "grant"),
    (Wallets, "adjust"),
    (Wallets, "void"),
    (Wallets, "account"),
]
EVENTS = [
    ("refund.created", refund("pi_1", "re_1", 500)),
    ("payment_intent.succeeded", intent("pi_1", 2000)),
    ("refund.failed", refund("pi_1", "re_1", 500, "failed")),
    ("charge.dispute.created", dispute("pi_1", "dp_1", 2000, "needs_response")),
    ("charge.dispute.closed", dispute("pi_1", "dp_1", 2000, "won")),
    ("charge.refunded", charge("pi_1", 2000, 1200)),
    ("charge.refunded", charge("pi_1", 2000, 2500)),
]
MOST = 60


class Breaking:
    """Makes one of the steps fail, once: before it is done, or with its answer lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.fails_at, self.before = 0, 0, False
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def step(*args: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.fails_at and self.before:
                raise LedgerUnavailable("it is away")
            answer = await real(*args, **named)
            if self.count == self.fails_at:
                raise LedgerUnavailable("its answer was lost", unknown=True)
            return answer

        return step


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_a_delivery_that_fails_at_any_step_is_completed_by_the_next(
    paying: Console, stripe: Stripe, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    breaking = Breaking(monkeypatch)
    breaking.before = before
    balance_nano = 10_000_000_000
    for number in range(1, MOST):
        breaking.count, breaking.fails_at = 0, number
        refused = 0
        for kind, subject in EVENTS:
            named = {
                name: value.replace("_1", f"_{number}") if isinstance(value, str) else value
                for name, value in subject.items()
            }
            while (answer := await stripe.send(kind, named)).status_code != 200:
                assert answer.status_code == 503
                refused += 1
        shown = (await paying.client.get(f"/api/v1/payments/stripe:pi_{number}")).json()
        assert (shown["status"], shown["problem"]) == ("returned", None), f"step {number}"
        assert await wallet(paying) == (str(balance_nano // 10**9), "active"), f"step {number}"
        if refused == 0:  # every step of a delivery has failed once
            break
    assert refused == 0
    assert number > 20
