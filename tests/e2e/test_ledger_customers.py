"""Customers that are created while the gate runs, through its HTTP side."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.app.backend import open_backend
from gateway.app.plan_terms import PlanTermsWalk
from gateway.app.sync import sync_accounts
from gateway.domain.delivery import START
from gateway.domain.events import Event
from gateway.domain.key_terms import KeyTerms
from gateway.domain.limits import Limit
from gateway.operations import keys
from gateway.operations.backend import Backend
from gateway.operations.customer_changes import (
    CustomerChange,
    NewCustomer,
    create_customer,
    delete_customer,
    resume_customer,
    suspend_customer,
    update_customer,
)
from gateway.operations.customers import customer_document, get_customer, list_customers
from gateway.operations.errors import Conflict, NotFound
from gateway.operations.freeze import thaw
from gateway.operations.keys import NewKey, create_key, list_keys, revoke_key, rotate_key
from gateway.operations.wallets import show_wallet
from tests.support.gate import SHARDS, Gate, Serve
from tests.support.outbox_entries import read_entries
from tests.support.until import until

PLANS: dict[str, Any] = {
    "starter": {
        "grants": [{"name": "welcome", "amount": "5.00"}],
        "recurring_grants": [{"name": "monthly", "amount": "2.00"}],
        "billing_day": 15,
        "models": ["small"],
        "limits": [{"scope": "key", "measure": "requests", "window": "day", "ceiling": 100}],
    },
    "pro": {
        "credit_limit": "3.00",
        "grants": [{"name": "pro", "amount": "7.00"}],
        "prices": {"small": {"input": "2.00", "output": "8.00"}},
    },
}


@pytest.fixture
async def gate(serve: Serve) -> AsyncIterator[Gate]:
    async with serve(plans=PLANS) as running:
        yield running


@pytest.fixture
async def backend(gate: Gate) -> AsyncIterator[Backend]:
    async with open_backend(gate.settings) as opened:
        yield opened


async def chat(gate: Gate, secret: str, model: str = "small", path: str = "") -> httpx.Response:
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {secret}"}
    return await gate.post(path or "/v1/chat/completions", body, headers)


async def key_of(backend: Backend, customer_id: str, **terms: Any) -> str:
    """The secret of a new key."""
    return (await create_key(backend, NewKey(customer_id, terms=KeyTerms(**terms)))).secret


async def test_a_new_customer_pays_from_the_credit_of_its_plan(
    gate: Gate, backend: Backend
) -> None:
    made = await create_customer(
        backend, NewCustomer("newco", "starter", name="New Co", tags={"region": "eu"})
    )
    said = customer_document(made)
    assert (said["id"], said["plan"], said["status"]) == ("newco", "starter", "active")
    assert (said["kept_in"], said["balance"], said["name"]) == ("ledger", "7", "New Co")
    secret = await key_of(backend, "newco")
    assert (await chat(gate, secret)).status_code == 200
    event = await gate.one_event("newco")
    assert event.amount_nano < 0 or event.amount_nano > 0
    assert event.facts["tags"] == {"region": "eu"}
    assert event.facts["livemode"] is True
    assert (await chat(gate, secret, "dear")).status_code == 403, "the plan has one model"
    view = await show_wallet(backend, "newco")
    assert view.wallet.billing_day == 15
    assert list(view.recurring) == ["monthly"]
    assert {limit.limit.ceiling for limit in view.limits} == {100}


async def test_creating_it_again_is_refused_and_completes_an_interrupted_creation(
    gate: Gate, backend: Backend
) -> None:
    made = await create_customer(backend, NewCustomer("newco", "starter"))
    with pytest.raises(Conflict, match="there is, or was, a customer newco"):
        await create_customer(backend, NewCustomer("newco", "starter"))
    with pytest.raises(Conflict, match="acme in the configuration already"):
        await create_customer(backend, NewCustomer("acme"))
    with pytest.raises(Conflict, match="there is no plan gold"):
        await create_customer(backend, NewCustomer("other", "gold"))
    begun = replace(made.record, customer_id="begun", terms_digest="")
    await backend.accounts.customers.create(begun)
    done = await create_customer(backend, NewCustomer("begun", "starter"))
    assert done.record.terms_digest == made.record.terms_digest
    assert customer_document(done)["balance"] == "7"


async def test_a_configured_customer_is_shown_and_refuses_changes(
    gate: Gate, backend: Backend
) -> None:
    shown = customer_document(await get_customer(backend, "acme"))
    assert (shown["kept_in"], shown["balance"]) == ("configuration", "10")
    for attempt in (
        update_customer(backend, "acme", CustomerChange(plan="pro")),
        suspend_customer(backend, "acme"),
        delete_customer(backend, "acme"),
    ):
        with pytest.raises(Conflict, match=r"kept in the configuration, under customers\.acme"):
            await attempt
    await create_customer(backend, NewCustomer("newco"))
    with pytest.raises(NotFound, match=r"there is no customer newc\. Did you mean 'newco'"):
        await get_customer(backend, "newc")


async def test_both_kinds_are_listed_page_by_page(gate: Gate, backend: Backend) -> None:
    for name in ("aaa", "bbb", "zzz"):
        await create_customer(backend, NewCustomer(name))
    seen: list[str] = []
    after = ""
    while True:
        page = await list_customers(backend, after=after, limit=2)
        seen += [view.record.customer_id for view in page.customers]
        if page.after is None:
            break
        after = page.after
    assert seen == ["aaa", "acme", "bbb", "broke", "zzz"]


async def test_a_new_plan_reaches_the_next_request_with_its_price_and_credit(
    gate: Gate, backend: Backend
) -> None:
    await create_customer(backend, NewCustomer("newco", "starter"))
    secret = await key_of(backend, "newco")
    assert (await chat(gate, secret)).status_code == 200
    [cheap] = await settled(gate, "newco")
    changed = await update_customer(backend, "newco", CustomerChange(plan="pro"), "upgrade")
    assert changed.record.plan == "pro"
    view = await show_wallet(backend, "newco")
    assert view.wallet.credit_limit_nano == 3_000_000_000
    assert set(view.names.values()) >= {"welcome", "pro"}
    assert not any(each.amount_nano for each in view.wallet.allowances), "the old plan's has ended"
    assert (await chat(gate, secret)).status_code == 200
    [_, dear] = await settled(gate, "newco")
    assert dear == 2 * cheap
    assert (await chat(gate, secret, "dear")).status_code == 200, "the plan has every model"


async def settled(gate: Gate, customer_id: str) -> list[int]:
    """What each request was charged."""
    await gate.settle_all()
    return [abs(event.amount_nano) for event in await gate.events(customer_id)]


async def test_a_price_of_its_own_goes_before_the_plan_s(gate: Gate, backend: Backend) -> None:
    price = backend.configured.own_price("small", {"input": "4.00", "output": "16.00"})
    version = await backend.accounts.books.keep(price)
    await create_customer(backend, NewCustomer("newco", "pro", prices={"small": version}))
    await create_customer(backend, NewCustomer("other", "pro"))
    for name in ("newco", "other"):
        assert (await chat(gate, await key_of(backend, name))).status_code == 200
    [own], [plans] = [await settled(gate, name) for name in ("newco", "other")]
    assert own == 2 * plans
    with pytest.raises(Conflict, match="the ledger has no price nothing"):
        await update_customer(backend, "newco", CustomerChange(prices={"small": "nothing"}))
    with pytest.raises(ValueError, match="there is no model nope"):
        backend.configured.own_price("nope", {"input": "1"})
    with pytest.raises(ValueError, match="the price of small, input: 'much' is not"):
        backend.configured.own_price("small", {"input": "much"})


async def test_a_plan_added_at_a_reload_is_charged_at_its_prices(
    gate: Gate, backend: Backend
) -> None:
    plans = gate.settings.plans
    settings = gate.settings.model_copy(update={"plans": {**plans, "gold": plans["pro"]}})
    await sync_accounts(settings, gate.ledger.wallets, gate.store)
    await gate.service.configuration.prepare(settings)
    gate.service.configuration.commit()
    await until(lambda: "gold" in gate.service.flow.catalog.plan_overrides)
    async with open_backend(settings) as reloaded:
        for name, plan in (("cheap", "starter"), ("dear", "gold")):
            await create_customer(reloaded, NewCustomer(name, plan))
            assert (await chat(gate, await key_of(reloaded, name))).status_code == 200
    [cheap], [dear] = [await settled(gate, name) for name in ("cheap", "dear")]
    assert dear == 2 * cheap


async def test_a_suspended_customer_is_refused_until_it_is_resumed(
    gate: Gate, backend: Backend
) -> None:
    await create_customer(backend, NewCustomer("newco", "starter"))
    secret = await key_of(backend, "newco")
    assert (await chat(gate, secret)).status_code == 200
    assert (await suspend_customer(backend, "newco", "unpaid")).record.status == "suspended"
    refused = await chat(gate, secret)
    assert (refused.status_code, refused.json()["error"]["metadata"]["reason"]) == (
        402,
        "wallet_frozen",
    )
    assert (await resume_customer(backend, "newco")).record.status == "active"
    assert (await chat(gate, secret)).status_code == 200


@pytest.mark.parametrize("mode", ["bypass", "shadow"])
async def test_a_suspended_customer_is_refused_in_modes_that_refuse_nothing_else(
    serve: Serve, mode: str
) -> None:
    async with serve(plans=PLANS, mode=mode) as gate, open_backend(gate.settings) as backend:
        await create_customer(backend, NewCustomer("newco", "starter"))
        secret = await key_of(backend, "newco")
        assert (await chat(gate, secret)).status_code == 200
        await suspend_customer(backend, "newco", "fraud")
        await until(lambda: _answers(gate, secret, 402), within_s=1.5)
        await resume_customer(backend, "newco")
        await until(lambda: _answers(gate, secret, 200), within_s=1.5)


async def _answers(gate: Gate, secret: str, status: int) -> bool:
    return (await chat(gate, secret)).status_code == status


async def test_a_test_key_that_a_suspended_customer_gets_is_refused_as_well(
    gate: Gate, backend: Backend
) -> None:
    await create_customer(backend, NewCustomer("newco", "starter"))
    await suspend_customer(backend, "newco", "fraud")
    secret = await key_of(backend, "newco", test=True)
    assert (await chat(gate, secret)).status_code == 402
    await resume_customer(backend, "newco")
    assert (await chat(gate, secret)).status_code == 200


async def test_a_suspension_is_not_ended_by_thawing_a_wallet(backend: Backend) -> None:
    await create_customer(backend, NewCustomer("newco", "starter"))
    await suspend_customer(backend, "newco", "fraud")
    with pytest.raises(Conflict, match="customer resume newco"):
        await thaw(backend, "newco", "a mistake")
    assert (await get_customer(backend, "newco")).record.status == "suspended"
    await delete_customer(backend, "newco")
    with pytest.raises(Conflict, match="deleted"):
        await thaw(backend, "newco", "a mistake")


async def test_a_deleted_customer_keeps_its_books_and_loses_the_rest(
    gate: Gate, backend: Backend
) -> None:
    await create_customer(
        backend,
        NewCustomer(
            "newco", "starter", name="N", email="n@x.example", external_ids={"stripe": "cus_9"}
        ),
    )
    secret = await key_of(backend, "newco")
    assert (await chat(gate, secret)).status_code == 200
    [charged] = await settled(gate, "newco")
    gone = await delete_customer(backend, "newco", "asked")
    assert (gone.record.status, gone.record.name, gone.record.email) == ("deleted", None, None)
    assert dict(gone.record.external_ids) == {}
    assert await backend.accounts.customers.find_external("stripe", "cus_9") is None
    assert gone.wallet is not None
    assert (gone.wallet.settled_nano, gone.wallet.frozen) == (charged, True)
    assert all(each.revoked_at_ms for each in await list_keys(backend, "newco"))
    assert (await chat(gate, secret)).status_code == 401
    assert (await delete_customer(backend, "newco")).record == gone.record
    with pytest.raises(Conflict, match="there is, or was"):
        await create_customer(backend, NewCustomer("newco"))
    with pytest.raises(NotFound, match="newco was deleted"):
        await key_of(backend, "newco")


async def test_a_key_is_held_to_its_own_terms(gate: Gate, backend: Backend) -> None:
    await create_customer(backend, NewCustomer("newco", "pro"))
    narrow = await key_of(
        backend,
        "newco",
        models=frozenset({"small"}),
        limits=(Limit("key", "requests", "day", 1),),
        networks=("127.0.0.0/8",),
    )
    assert (await chat(gate, narrow, "dear")).status_code == 403
    assert (await chat(gate, narrow)).status_code == 200
    assert (await chat(gate, narrow)).status_code == 429
    elsewhere = await key_of(backend, "newco", networks=("10.0.0.0/8", "2001:db8::/32"))
    for _ in range(2):  # the second time from memory
        refused = await chat(gate, elsewhere)
        assert refused.status_code == 401
        assert "may not be used from this address" in refused.text
    for wrong, says in (
        ({"networks": ("10.0.0.0/99",)}, "is not a network"),
        ({"models": frozenset({"smal"})}, "Did you mean 'small'"),
        ({"limits": (Limit("customer", "spend", "day", 1),)}, "scope `key`"),
        ({"expires_at_ms": 1}, "expired already"),
    ):
        with pytest.raises(Conflict, match=says):
            await key_of(backend, "newco", **wrong)


async def test_a_key_expires_although_the_gate_knows_it_already(
    gate: Gate, backend: Backend
) -> None:
    soon = time.time_ns() // 1_000_000 + 1500
    secret = await key_of(backend, "acme", expires_at_ms=soon)
    assert (await chat(gate, secret)).status_code == 200
    await asyncio.sleep(max(0.0, soon / 1000 - time.time()) + 0.01)
    refused = await chat(gate, secret)
    assert (refused.status_code, "has expired" in refused.text) == (401, True)
    answer = await gate.client.get("/v1/credits", headers={"authorization": f"Bearer {secret}"})
    assert answer.status_code == 401


async def test_a_rotated_key_works_beside_the_new_one_for_its_grace(
    gate: Gate, backend: Backend
) -> None:
    old = await create_key(backend, NewKey("acme", "web", "k_old", KeyTerms(name="ci")))
    assert old.secret not in repr(old)
    assert (await chat(gate, old.secret)).status_code == 200
    new = await rotate_key(backend, "k_old", grace_ms=60_000)
    assert (new.entry.terms.name, new.entry.project_id) == ("ci", "web")
    assert [(await chat(gate, each.secret)).status_code for each in (old, new)] == [200, 200]
    [listed] = [each for each in await list_keys(backend, "acme") if each.key_id == "k_old"]
    assert listed.replaced_by == new.entry.key_id
    assert listed.terms.expires_at_ms is not None
    with pytest.raises(Conflict, match="was rotated already"):
        await rotate_key(backend, "k_old")
    newest = await rotate_key(backend, new.entry.key_id, grace_ms=0)
    assert [(await chat(gate, each.secret)).status_code for each in (new, newest)] == [401, 200]


async def test_a_key_that_is_revoked_while_it_is_rotated_stays_revoked(
    gate: Gate, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await create_key(backend, NewKey("acme", key_id="k_old"))

    async def slowly(*given: Any) -> keys.KeyCreated:
        made = await create_key(*given)
        await revoke_key(backend, "k_old", reason="leaked")
        return made

    monkeypatch.setattr(keys, "create_key", slowly)
    new = await rotate_key(backend, "k_old", grace_ms=60_000)
    assert [(await chat(gate, each.secret)).status_code for each in (old, new)] == [401, 200]
    [listed] = [each for each in await list_keys(backend, "acme") if each.key_id == "k_old"]
    assert listed.revoked_at_ms is not None
    assert listed.replaced_by == new.entry.key_id


async def test_a_test_key_spends_the_test_wallet_and_says_so(gate: Gate, backend: Backend) -> None:
    await create_customer(backend, NewCustomer("newco", "starter"))
    secret = await key_of(backend, "newco", test=True)
    assert secret.startswith("sk-test-")
    assert (await chat(gate, secret)).status_code == 200
    await gate.settle_all()
    [event] = await gate.events("newco~test")
    assert event.facts["livemode"] is False
    assert await gate.events("newco") == []
    live = await get_customer(backend, "newco")
    assert live.wallet is not None
    assert live.wallet.settled_nano == 0
    [entry] = await list_keys(backend, "newco")
    await revoke_key(backend, entry.key_id)
    assert (await chat(gate, secret)).status_code == 401
    configured = await key_of(backend, "acme", test=True)
    assert (await chat(gate, configured)).status_code == 200


@asynccontextmanager
async def counted(gate: Gate) -> AsyncIterator[list[str]]:
    """Which of the directory's questions a request asks."""
    accounts = gate.service.configuration._flow.accounts
    asked: list[str] = []
    real = accounts._directory

    class Counting:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(real, name)

    accounts._directory = Counting()
    yield asked
    accounts._directory = real


async def test_a_cold_customer_costs_one_round_trip_more_and_a_warm_one_none(
    gate: Gate, backend: Backend
) -> None:
    await create_customer(backend, NewCustomer("newco", "starter"))
    secret = await key_of(backend, "newco")
    async with counted(gate) as asked:
        assert (await chat(gate, secret)).status_code == 200
        assert asked == ["find_key", "read_account"]
        assert (await chat(gate, secret)).status_code == 200
        assert len(asked) == 2


async def test_a_gateway_in_front_may_name_a_customer_of_the_ledger(serve: Serve) -> None:
    auth = {"trusted_header": {"customer": "x-customer", "networks": ["127.0.0.0/8"]}}
    async with serve(plans=PLANS, auth=auth) as gate, open_backend(gate.settings) as backend:
        await create_customer(backend, NewCustomer("newco", "starter"))
        body = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
        named = {"x-customer": "newco", "authorization": ""}
        answers = [
            await gate.post("/v1/chat/completions", body, {**named, "x-customer": name})
            for name in ("newco", "newco", "nobody", "newco~test")
        ]
        assert [each.status_code for each in answers] == [200, 200, 401, 401]
        await delete_customer(backend, "newco")
        gone = await gate.post("/v1/chat/completions", body, named)
        assert gone.status_code == 401


async def test_changed_terms_of_a_plan_reach_the_wallets_of_its_customers(
    gate: Gate, backend: Backend
) -> None:
    for name in ("one", "two"):
        await create_customer(backend, NewCustomer(name, "starter"))
    await create_customer(backend, NewCustomer("other", "pro"))
    await key_of(backend, "one", test=True)
    now = gate.settings
    walk = PlanTermsWalk(gate.store, gate.ledger.wallets, lambda: now)
    assert await walk.look() == 0, "all have the terms of their plans"
    starter = now.plans["starter"].model_copy(update={"credit_limit_nano": 4_000_000_000})
    now = now.model_copy(update={"plans": {**now.plans, "starter": starter}})
    assert await walk.look() == 2
    wallets = await gate.store.wallets.read(["one", "one~test", "two", "other"])
    limits = {name: wallet.credit_limit_nano // 10**9 for name, wallet in wallets.items()}
    assert limits == {"one": 4, "one~test": 4, "two": 4, "other": 3}
    now = now.model_copy()
    assert await walk.look() == 0


async def test_every_change_is_in_the_audit_log_without_personal_data(
    gate: Gate, backend: Backend
) -> None:
    await create_customer(backend, NewCustomer("newco", "starter", name="Jo Doe"), "signed up")
    await update_customer(backend, "newco", CustomerChange(plan="pro", email="jo@doe.example"))
    await create_key(backend, NewKey("newco", key_id="k_jo", terms=KeyTerms(name="Jo's laptop")))
    await rotate_key(backend, "k_jo", reason="leaked")
    await suspend_customer(backend, "newco", "unpaid")
    await delete_customer(backend, "newco")
    tails = await read_entries(gate.outbox, dict.fromkeys(range(SHARDS), START), limit=1000)
    events = [entry for _, shard in tails for entry in shard if isinstance(entry, Event)]
    noted = [each.facts for each in events if each.kind == "audit"]
    by_action = {facts["action"]: facts for facts in noted}
    assert list(by_action) == [
        "customer.create",
        "customer.update",
        "key.create",
        "key.rotate",
        "customer.suspend",
        "customer.delete",
    ]
    assert all(facts["actor"] == str(backend.actor) for facts in noted)
    assert by_action["customer.create"]["reason"] == "signed up"
    update = by_action["customer.update"]
    assert (update["before"], update["after"]) == (
        {"plan": "starter"},
        {"plan": "pro", "erasable_fields": ["email"]},
    )
    said = repr([event.facts for event in events])
    assert "Jo" not in said
    assert "jo@doe" not in said
