"""`creditgate payments`: what waits, and how it goes on."""

from gateway.operations.customer_changes import NewCustomer, create_customer
from tests.support.console import Console
from tests.support.webhooks import Stripe, intent, wallet
from tests.unit.cli.desk import Desk

PAID = "payment_intent.succeeded"


async def test_a_payment_that_waits_is_listed_shown_and_completed(
    paying: Console, stripe: Stripe
) -> None:
    desk = Desk(paying.config)
    await stripe.status(PAID, intent("pi_1", 2000, "globex"))
    said = await desk.run("payments", "waiting")
    assert "stripe:pi_1" in said.out
    assert "there is no customer globex" in said.out
    assert (await desk.run("payments", "retry", "stripe:pi_1")).code == 1
    await create_customer(paying.backend, NewCustomer("globex"))
    done = await desk.ask("payments", "retry", "stripe:pi_1")
    assert (done["status"], done["credited"]) == ("credited", "20")
    assert (await desk.ask("payments", "waiting"))["payments"] == []
    assert (await desk.ask("payments", "show", "stripe:pi_1"))["customer_id"] == "globex"
    assert await wallet(paying, "globex") == ("20", "active")


async def test_an_unknown_payment_is_refused_with_a_hint(paying: Console) -> None:
    said = await Desk(paying.config).run("payments", "show", "pi_1")
    assert said.code == 1
    assert "SOURCE:ID" in said.err


async def test_the_list_comes_in_pages(paying: Console, stripe: Stripe) -> None:
    for number in range(3):
        await stripe.status(PAID, intent(f"pi_{number}", 2000, "globex"))
    desk = Desk(paying.config)
    first = await desk.ask("payments", "waiting", "-n", "2")
    rest = await desk.ask("payments", "waiting", "-n", "2", "--cursor", str(first["cursor"]))
    ids = [each["payment_id"] for each in (*first["payments"], *rest["payments"])]
    assert sorted(ids) == ["pi_0", "pi_1", "pi_2"]
    assert rest["cursor"] is None
    query = {"limit": 2}
    page = (await paying.client.get("/api/v1/payments/waiting", params=query)).json()
    assert page["has_more"]
    after = query | {"starting_after": page["next_cursor"]}
    page = (await paying.client.get("/api/v1/payments/waiting", params=after)).json()
    assert (len(page["data"]), page["has_more"]) == (1, False)
    bad = await paying.client.get("/api/v1/payments/waiting", params={"starting_after": "x"})
    assert bad.status_code == 400
