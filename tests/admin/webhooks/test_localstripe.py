"""Events as localstripe sends them: it imitates Stripe's API, and signs its webhooks as Stripe does.

It sends each event a second after its cause, and none about refunds.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.operations.customer_changes import NewCustomer, create_customer
from tests.support.console import Console
from tests.support.s3_server import free_port
from tests.support.until import until
from tests.support.webhooks import STRIPE_SECRET, wallet


@pytest.fixture
async def api(paying: Console) -> AsyncIterator[httpx.AsyncClient]:
    """Its API; it knows the console's webhook."""
    port = free_port()
    command = [sys.executable, "-m", "localstripe", "--from-scratch", "--port", str(port)]
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=null, stderr=null)
    hook = {"url": f"{paying.url}/webhooks/stripe", "secret": STRIPE_SECRET}
    try:
        async with httpx.AsyncClient(
            base_url=f"http://localhost:{port}", auth=("sk_test_1", ""), timeout=30
        ) as client:

            async def ready() -> bool:
                try:
                    answer = await client.post("/_config/webhooks/gate", json=hook)
                except httpx.TransportError:
                    return False
                return answer.status_code == 200

            await until(ready, 30)
            yield client
    finally:
        process.kill()
        await process.wait()


async def post(api: httpx.AsyncClient, path: str, **fields: Any) -> dict[str, Any]:
    answer = await api.post(f"/v1/{path}", data=fields)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_payment_at_localstripe_is_credited(
    paying: Console, api: httpx.AsyncClient
) -> None:
    buyer = await post(api, "customers", name="Globex")
    new = NewCustomer("globex", external_ids={"stripe": buyer["id"]})
    await create_customer(paying.backend, new)
    card = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2040", "cvc": "123"}
    method = await post(
        api,
        "payment_methods",
        type="card",
        **{f"card[{name}]": value for name, value in card.items()},
    )
    await post(api, f"payment_methods/{method['id']}/attach", customer=buyer["id"])
    intent = await post(
        api,
        "payment_intents",
        amount="2500",
        currency="usd",
        customer=buyer["id"],
        payment_method=method["id"],
    )
    await post(api, f"payment_intents/{intent['id']}/confirm")

    path = f"/api/v1/payments/stripe:{intent['id']}"

    async def credited() -> bool:
        await asyncio.sleep(0.1)
        answer = await paying.client.get(path)
        return answer.status_code == 200 and answer.json()["status"] == "credited"

    await until(credited, 30)
    shown = (await paying.client.get(path)).json()
    account = shown["customer_id"]
    assert (shown["status"], account) == ("credited", "globex~test"), shown
    assert await wallet(paying, account) == ("25", "active")
