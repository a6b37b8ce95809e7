"""The price book and customers' own prices over the API."""

from typing import Any

from tests.support.console import Console


async def call(console: Console, method: str, path: str, status: int = 200, **body: Any) -> Any:
    sent: dict[str, Any] = {"json": body} if method in ("POST", "PUT") else {"params": body}
    answer = await console.client.request(method, f"/api/v1{path}", **sent)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_prices_are_applied_shown_and_rolled_back(console: Console) -> None:
    book = await call(console, "GET", "/prices")
    taken = await call(console, "POST", "/prices/apply", reason="again")
    assert taken["state"] == "in_force"
    assert book["book"] == taken["book"]
    assert book["models"]["small"]["prices"]["input"].endswith("/M")
    assert (await call(console, "GET", "/prices/pending"))["data"] == []
    assert (await call(console, "GET", f"/prices/books/{taken['book']}"))["models"] == book[
        "models"
    ]
    await call(console, "GET", "/prices/books/77", 404)
    nothing = await call(console, "POST", "/prices/rollback", 409)
    assert nothing["error"]["code"] == "conflict"
    assert (await call(console, "GET", "/prices/plan", 404))["error"]["code"] == "not_found"
    again = await call(console, "POST", "/prices/activate", book=taken["book"])
    assert again["book"] == taken["book"]


async def test_a_customer_gets_and_loses_its_own_price(console: Console) -> None:
    await call(console, "POST", "/customers", 201, id="newcorp")
    path = "/customers/newcorp/prices"
    price = {"input": "2.00", "output": "8.00"}
    made = await call(console, "PUT", f"{path}/small", price=price, reason="a big one")
    assert made["prices"]["input"] == "2 /M"
    [own] = (await call(console, "GET", path))["data"]
    assert own == made
    customer = await call(console, "GET", "/customers/newcorp")
    assert customer["prices"] == {"small": made["price_version"]}
    assert (await call(console, "DELETE", f"{path}/small"))["deleted"] is True
    await call(console, "DELETE", f"{path}/small", 404)
    assert (await call(console, "GET", path))["data"] == []


async def test_a_price_that_cannot_be_rated_is_refused_with_its_place(console: Console) -> None:
    await call(console, "POST", "/customers", 201, id="newcorp")
    path = "/customers/newcorp/prices"
    error = (await call(console, "PUT", f"{path}/small", 400, price={"input": "free"}))["error"]
    assert (error["code"], error["param"]) == ("parameter_invalid", "price")
    await call(console, "PUT", f"{path}/unknown", 404, price={"input": "1"})
