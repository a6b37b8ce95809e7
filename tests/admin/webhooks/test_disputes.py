"""Disputes freeze a wallet, and thaw it when they are won."""

from gateway.operations.customer_changes import NewCustomer, create_customer, suspend_customer
from gateway.operations.freeze import freeze, kill, thaw
from tests.support.console import Console
from tests.support.webhooks import Stripe, dispute, intent, wallet

PAID = "payment_intent.succeeded"
OPENED, CLOSED = "charge.dispute.created", "charge.dispute.closed"


async def test_a_dispute_freezes_until_it_is_won(paying: Console, stripe: Stripe) -> None:
    await stripe.status(PAID, intent("pi_1", 2000))
    opened = dispute("pi_1", "dp_1", 2000, "needs_response")
    assert await stripe.status(OPENED, opened) == "disputed"
    assert await wallet(paying) == ("30", "frozen")
    assert await stripe.status(CLOSED, dispute("pi_1", "dp_1", 2000, "won")) == "credited"
    assert await wallet(paying) == ("30", "active")
    await stripe.status(OPENED, opened)
    assert await wallet(paying) == ("30", "active")


async def test_a_lost_dispute_takes_the_credit_and_stays_frozen(
    paying: Console, stripe: Stripe
) -> None:
    await stripe.status(PAID, intent("pi_1", 2000))
    await stripe.status(OPENED, dispute("pi_1", "dp_1", 2000, "needs_response"))
    assert await stripe.status(CLOSED, dispute("pi_1", "dp_1", 2000, "lost")) == "returned"
    assert await wallet(paying) == ("10", "frozen")


async def test_a_wallet_thaws_when_its_last_dispute_is_won(paying: Console, stripe: Stripe) -> None:
    for number in (1, 2):
        await stripe.status(PAID, intent(f"pi_{number}", 2000))
        opened = dispute(f"pi_{number}", f"dp_{number}", 2000, "needs_response")
        await stripe.status(OPENED, opened)
    await stripe.status(CLOSED, dispute("pi_1", "dp_1", 2000, "won"))
    assert (await wallet(paying))[1] == "frozen"
    await stripe.status(CLOSED, dispute("pi_2", "dp_2", 2000, "won"))
    assert (await wallet(paying))[1] == "active"


async def test_a_freeze_that_somebody_else_made_stays(paying: Console, stripe: Stripe) -> None:
    await stripe.status(PAID, intent("pi_1", 2000))
    await freeze(paying.backend, "acme", "under investigation")
    await stripe.status(OPENED, dispute("pi_1", "dp_1", 2000, "needs_response"))
    await stripe.status(CLOSED, dispute("pi_1", "dp_1", 2000, "won"))
    assert (await wallet(paying))[1] == "frozen"


async def test_a_suspended_customer_stays_frozen_when_a_dispute_is_won(
    paying: Console, stripe: Stripe
) -> None:
    await create_customer(paying.backend, NewCustomer("globex"))
    await stripe.status(PAID, intent("pi_1", 2000, "globex"))
    await stripe.status(OPENED, dispute("pi_1", "dp_1", 2000, "needs_response"))
    await suspend_customer(paying.backend, "globex", "fraud")
    await stripe.status(CLOSED, dispute("pi_1", "dp_1", 2000, "won"))
    assert (await wallet(paying, "globex"))[1] == "frozen"


async def test_after_somebody_thawed_it_a_new_dispute_freezes_and_thaws_again(
    paying: Console, stripe: Stripe
) -> None:
    await stripe.status(PAID, intent("pi_1", 2000))
    await stripe.status(CLOSED, dispute("pi_1", "dp_1", 500, "lost"))
    await thaw(paying.backend, "acme", "talked to them")
    await stripe.status(PAID, intent("pi_2", 2000))
    await stripe.status(OPENED, dispute("pi_2", "dp_2", 2000, "needs_response"))
    assert await wallet(paying) == ("45", "frozen")
    await stripe.status(CLOSED, dispute("pi_2", "dp_2", 2000, "won"))
    assert await wallet(paying) == ("45", "active")


async def test_a_killed_wallet_stays_killed(paying: Console, stripe: Stripe) -> None:
    await stripe.status(PAID, intent("pi_1", 2000))
    await kill(paying.backend, "acme", "runaway")
    await stripe.status(OPENED, dispute("pi_1", "dp_1", 2000, "needs_response"))
    await stripe.status(CLOSED, dispute("pi_1", "dp_1", 2000, "won"))
    assert (await wallet(paying))[1] == "killed"


async def test_a_dispute_that_comes_before_its_payment_freezes_with_it(
    paying: Console, stripe: Stripe
) -> None:
    opened = dispute("pi_1", "dp_1", 2000, "needs_response")
    assert await stripe.status(OPENED, opened) == "waiting"
    assert await wallet(paying) == ("10", "active")
    assert await stripe.status(PAID, intent("pi_1", 2000)) == "disputed"
    assert await wallet(paying) == ("30", "frozen")
