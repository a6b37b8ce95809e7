"""How long a balance lasts."""

from dataclasses import replace

from gateway.ledger.codec.wallet_records import Grant, Wallet
from gateway.operations.projection import DAY_MS, Forfeit, project

NOW = 1_800_000_000_000
END = NOW + 30 * DAY_MS


def grant(no: int, remaining: int, *, effective: int = 0, expires: int = 0) -> Grant:
    return Grant(no, "paid", 100, 0, remaining, 0, effective, expires, NOW - DAY_MS)


def wallet(*grants: Grant, **fields: int) -> Wallet:
    empty = Wallet(False, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)
    return replace(empty, grants=grants, **fields)  # type: ignore[arg-type]


def test_without_spending_nothing_changes() -> None:
    ahead = project(wallet(grant(1, 100)), 0, NOW, END)
    assert ahead.points == [(NOW, 100), (END, 100)]
    assert (ahead.exhausted_ms, ahead.forfeits) == (None, [])


def test_a_balance_ends_when_it_is_spent() -> None:
    ahead = project(wallet(grant(1, 100)), 10, NOW, END)
    assert ahead.exhausted_ms == NOW + 10 * DAY_MS
    assert ahead.points[-1] == (NOW + 10 * DAY_MS, 0)


def test_the_credit_limit_is_spent_as_well() -> None:
    ahead = project(wallet(grant(1, 100), credit_limit_nano=50), 10, NOW, END)
    assert ahead.exhausted_ms == NOW + 15 * DAY_MS


def test_what_a_grant_has_left_at_its_expiry_is_forfeited() -> None:
    soon = NOW + 4 * DAY_MS
    ahead = project(wallet(grant(1, 100, expires=soon), grant(2, 60)), 10, NOW, END)
    assert ahead.forfeits == [Forfeit(soon, 1, 60)]
    assert (soon, 120) in ahead.points
    assert (soon, 60) in ahead.points
    assert ahead.exhausted_ms == NOW + 10 * DAY_MS


def test_a_grant_to_come_joins_when_it_begins() -> None:
    later = NOW + 2 * DAY_MS
    ahead = project(wallet(grant(1, 50), grant(2, 50, effective=later)), 10, NOW, END)
    assert ahead.points[0] == (NOW, 50)
    assert (later, 80) in ahead.points
    assert ahead.exhausted_ms == NOW + 10 * DAY_MS


def test_what_is_used_up_already_is_exhausted_now() -> None:
    assert project(wallet(), 10, NOW, END).exhausted_ms == NOW
