"""Customers, their projects, limits and prices over the API."""

from typing import Any

import pytest

from tests.support.console import Console

NEW = {
    "id": "newcorp",
    "name": "New Corp",
    "email": "pay@newcorp.example",
    "external_ids": {"stripe": "cus_1"},
    "tags": {"tier": "gold"},
    "credit_limit": "10.00",
    "billing_day": 15,
    "reason": "signed up",
}
SPEND = {"measure": "spend", "window": "day", "ceiling": "5.00"}
RATE = {"measure": "requests", "window": "minute", "ceiling": "60", "rolling": True}


async def created(console: Console, **changes: Any) -> dict[str, Any]:
    answer = await console.client.post("/api/v1/customers", json=NEW | changes)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_customer_is_created_changed_and_read(console: Console) -> None:
    made = await created(console)
    assert (made["status"], made["kept_in"], made["credit_limit"]) == ("active", "ledger", "10")
    assert made["available"] == "10"
    path = "/api/v1/customers/newcorp"
    changed = await console.client.patch(path, json={"name": None, "tags": {}})
    assert changed.status_code == 200
    read = (await console.client.get(path)).json()
    assert read == changed.json()
    assert (read["name"], read["tags"], read["billing_day"]) == (None, {}, 15)
    assert read["external_ids"] == {"stripe": "cus_1"}
    assert (read["wallet"], read["keys"]) == (None, None)


async def test_an_id_is_made_up_and_never_used_again(console: Console) -> None:
    made = await created(console, id=None)
    assert made["id"].startswith("cus_")
    other = {"id": made["id"], "name": "another"}
    assert (await console.client.post("/api/v1/customers", json=other)).status_code == 409


async def test_related_objects_are_included_on_request(console: Console) -> None:
    await created(console, limits=[SPEND, RATE | {"measure": "requests"}])
    params = {"expand[]": ["wallet", "keys"]}
    read = (await console.client.get("/api/v1/customers/newcorp", params=params)).json()
    assert read["wallet"]["credit_limit"] == "10"
    assert read["keys"] == []
    assert [each["ceiling"] for each in read["wallet"]["limits"]] == ["5", "60"]
    wrong = await console.client.get("/api/v1/customers/newcorp", params={"expand[]": "money"})
    assert wrong.json()["error"]["param"] == "expand[].0"


async def test_a_suspension_freezes_and_a_deletion_erases(console: Console) -> None:
    await created(console)
    path = "/api/v1/customers/newcorp"
    suspended = (await console.client.post(f"{path}/suspend", json={"reason": "abuse"})).json()
    assert (suspended["status"], suspended["frozen"]) == ("suspended", True)
    resumed = (await console.client.post(f"{path}/resume", json={})).json()
    assert (resumed["status"], resumed["frozen"]) == ("active", False)
    gone = (await console.client.delete(path, params={"reason": "asked for"})).json()
    assert (gone["status"], gone["email"], gone["external_ids"]) == ("deleted", None, {})


async def test_the_configuration_s_customers_are_read_only_except_their_money(
    console: Console,
) -> None:
    answer = await console.client.patch("/api/v1/customers/acme", json={"name": "Acme"})
    assert answer.status_code == 409
    assert "configuration" in answer.json()["error"]["message"]
    grant = {"customer_id": "acme", "amount": "1.00"}
    assert (await console.client.post("/api/v1/grants", json=grant)).status_code == 201


async def test_customers_are_listed_in_pages_and_by_prefix(console: Console) -> None:
    for name in ("b-1", "b-2", "c-1"):
        await created(console, id=name, external_ids={})
    query, seen = {"limit": "2"}, []
    while True:
        page = (await console.client.get("/api/v1/customers", params=query)).json()
        seen += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
        query["starting_after"] = page["next_cursor"]
    assert seen == ["acme", "b-1", "b-2", "broke", "c-1"]
    page = (await console.client.get("/api/v1/customers", params={"prefix": "b-"})).json()
    assert [each["id"] for each in page["data"]] == ["b-1", "b-2"]


async def test_limits_are_replaced_and_their_use_is_shown(console: Console) -> None:
    await created(console)
    path = "/api/v1/customers/newcorp/limits"
    body = {"limits": [SPEND, {"measure": "concurrent", "ceiling": "4"}]}
    replaced = (await console.client.put(path, json=body)).json()
    assert [(each["measure"], each["ceiling"]) for each in replaced["data"]] == [
        ("spend", "5"),
        ("concurrent", "4"),
    ]
    shown = (await console.client.get("/api/v1/limits", params={"customer_id": "newcorp"})).json()
    assert [(each["left"], each["window"]) for each in shown["data"]] == [
        ("5", "day"),
        ("4", None),
    ]


@pytest.mark.parametrize(
    ("limit", "param"),
    [
        ({"measure": "spend", "ceiling": "1"}, "limits.0.window"),
        ({"measure": "concurrent", "window": "day", "ceiling": "1"}, "limits.0.window"),
        ({**RATE, "ceiling": "1.5"}, "limits.0.ceiling"),
        ({**SPEND, "window": "total", "rolling": True}, "limits.0.rolling"),
        ({**SPEND, "scope": "model"}, "limits.0.model"),
        ({**SPEND, "model": "gpt"}, "limits.0.model"),
        ({**SPEND, "ceiling": -1}, "limits.0.ceiling"),
    ],
)
async def test_a_limit_that_fits_nothing_is_refused_with_its_place(
    console: Console, limit: dict[str, Any], param: str
) -> None:
    answer = await console.client.post("/api/v1/customers", json=NEW | {"limits": [limit]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_projects_are_names_with_limits(console: Console) -> None:
    await created(console)
    path = "/api/v1/customers/newcorp/projects"
    made = (await console.client.put(f"{path}/search", json={"limits": [SPEND]})).json()
    assert made["limits"][0]["scope"] == "project"
    listed = (await console.client.get(path)).json()
    assert listed["data"] == [made]
    gone = await console.client.delete(f"{path}/search")
    assert gone.json()["deleted"] is True
    assert (await console.client.delete(f"{path}/search")).status_code == 404
