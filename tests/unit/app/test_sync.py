"""A configuration's customers in the ledger: once, again, changed, and by two gates at once."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import yaml
from structlog.testing import capture_logs

from gateway.app.roles import CannotServe
from gateway.app.sync import sync_accounts
from gateway.domain.customers import CustomerRecord
from gateway.domain.pricebook import Book
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.wallets import MAX_ALLOWANCES, MAX_GRANTS, Wallets
from gateway.settings import Settings, load_settings
from tests.support.gate import SHARDS, gate_config
from tests.support.loose_ledger import LooseLedger

CREDIT = 10**9


class Office:
    """Configurations of the test's own and the real ledger that they go to."""

    def __init__(self, client: redis.asyncio.Redis, folder: Path) -> None:
        self._folder = folder
        self.store = AccountStore(client, shard_count=SHARDS)
        self.ledger = LooseLedger(RedisRunner(client), shard_count=SHARDS)

    def settings(self, customers: dict[str, Any], **changes: Any) -> Settings:
        """A configuration with these customers."""
        file = self._folder / "gateway.yaml"
        config = gate_config(
            "http://127.0.0.1:9", self._folder, "unix:///nothing", customers=customers, **changes
        )
        file.write_text(yaml.safe_dump(config))
        return load_settings(file)

    async def sync(self, customers: dict[str, Any], **changes: Any) -> None:
        await sync_accounts(self.settings(customers, **changes), self.ledger.wallets, self.store)

    async def wallet(self, customer_id: str = "acme") -> Any:
        return (await self.store.wallets.read([customer_id]))[customer_id]

    async def everything(self) -> dict[bytes, bytes]:
        """The whole ledger, save price versions: they are kept before any book names them."""
        keep = [key async for key in self.store._client.scan_iter()]
        dumped = {key: await self.store._client.dump(key) for key in keep}
        return {
            key: raw for key, raw in dumped.items() if not key.endswith((b":rates", b":prices"))
        }


def priced(output: str) -> dict[str, Any]:
    """A model with another price of output."""
    prices = {"input": "1.00", "output": output}
    return {"upstream": "sim", "prices": prices, "max_output_tokens": 4096}


@pytest.fixture
def office(valkey: redis.asyncio.Redis, tmp_path: Path) -> Office:
    return Office(valkey, tmp_path)


def grant(amount: str, name: str = "start", **more: Any) -> dict[str, Any]:
    return {"grants": [{"name": name, "amount": amount, **more}]}


async def test_customers_are_made_with_their_credit_once_however_often(office: Office) -> None:
    customers = {"acme": {**grant("10.00"), "credit_limit": "3.00"}, "broke": {}}
    for _ in range(3):
        await office.sync(customers)
    wallet = await office.wallet()
    assert (wallet.granted_nano, wallet.credit_limit_nano) == (10 * CREDIT, 3 * CREDIT)
    assert wallet.account_rev == 1, "what does not differ is not written"
    assert (await office.wallet("broke")).granted_nano == 0


async def test_a_changed_credit_limit_raises_the_revision_and_keeps_a_freeze(
    office: Office,
) -> None:
    await office.sync({"acme": {}})
    await office.ledger.account("acme", account_rev=2, frozen=True)
    await office.sync({"acme": {"credit_limit": "5.00"}})
    wallet = await office.wallet()
    assert (wallet.account_rev, wallet.credit_limit_nano) == (3, 5 * CREDIT)
    assert wallet.frozen


async def test_a_changed_grant_goes_to_those_who_have_not_received_it(office: Office) -> None:
    await office.sync({"acme": grant("10.00")})
    with capture_logs() as logs:
        await office.sync({"acme": grant("20.00"), "later": grant("20.00")})
    assert (await office.wallet()).granted_nano == 10 * CREDIT
    assert (await office.wallet("later")).granted_nano == 20 * CREDIT
    (kept,) = [line for line in logs if line["event"] == "grant_kept"]
    assert (kept["customer_id"], kept["grant"]) == ("acme", "start")
    await office.sync({"acme": grant("20.00", name="more")})
    assert (await office.wallet()).granted_nano == 30 * CREDIT


@pytest.mark.parametrize(
    "change",
    [
        {"priority": 7},
        {"category": "paid"},
        {"expires_at": "2100-01-01T00:00:00Z"},
        {"effective_at": "2020-01-01T00:00:00Z"},
    ],
)
async def test_whatever_changes_in_a_grant_it_stays_as_it_was_given(
    office: Office, change: dict[str, Any]
) -> None:
    await office.sync({"acme": grant("10.00")})
    (before,) = (await office.wallet()).grants
    await office.sync({"acme": grant("10.00", **change)})
    assert (await office.wallet()).grants == (before,)


async def test_what_is_refused_changes_nothing_and_says_everything(office: Office) -> None:
    old = {"acme": {"credit_limit": "1.00"}, "other": {}}
    await office.sync(old)
    before = await office.everything()
    grants = [{"name": f"g{n}", "amount": "0.01"} for n in range(65)]
    allowances = [{"name": f"r{n}", "amount": "0.01"} for n in range(17)]
    with pytest.raises(CannotServe) as refused:
        await office.sync(
            {
                "acme": {"credit_limit": "9.00", "grants": grants},
                "other": {"credit_limit": "9.00", "recurring_grants": allowances},
                "new": {"credit_limit": "9.00"},
            },
            prices={"auto_apply": True},
            models={"small": priced("200.00"), "dear": priced("200.00")},
        )
    first, second = str(refused.value).splitlines()
    assert first.startswith("customers.acme: would have 65 open grants; a wallet takes 64.")
    assert second.startswith("customers.other: would have 17 recurring grants;")
    assert await office.everything() == before
    await office.sync(old)
    assert await office.everything() == before


async def test_a_wallet_takes_as_many_grants_as_the_ledger_does(office: Office) -> None:
    grants = [{"name": f"g{n}", "amount": "0.01"} for n in range(MAX_GRANTS - 1)]
    allowances = [{"name": f"r{n}", "amount": "0.01"} for n in range(MAX_ALLOWANCES)]
    await office.sync({"acme": {"grants": grants}, "other": {"recurring_grants": allowances}})
    gone = {"name": "gone", "amount": "5.00", "expires_at": "2020-01-01T00:00:00Z"}
    last = {"name": "last", "amount": "5.00"}
    await office.sync({"acme": {"grants": [*grants, gone, last]}})
    assert len((await office.wallet()).grants) == MAX_GRANTS
    ended = [{**allowances[0], "amount": "0"}, *allowances[1:], {"name": "new", "amount": "1"}]
    await office.sync({"other": {"recurring_grants": ended}})
    with pytest.raises(CannotServe, match="would have 65 open grants"):
        await office.sync({"acme": {"grants": [*grants, last, {"name": "x", "amount": "1"}]}})


async def test_a_frozen_shard_is_left_alone_and_the_others_are_written(office: Office) -> None:
    await office.sync({"acme": {}})
    shard = office.store.names.shard_of("acme")
    meta = office.store.names.meta(shard)
    record = bytearray(await office.store._client.get(meta))
    record[1] = 1
    await office.store._client.set(meta, bytes(record))
    names = ["b", "c", "d", "e", "f"]
    shut = {name for name in names if office.store.names.shard_of(name) == shard}
    await office.sync({"acme": {"credit_limit": "9.00"}, **{name: {} for name in names}})
    wallets = await office.store.wallets.read(["acme", *names])
    assert wallets["acme"].credit_limit_nano == 0
    assert set(wallets) == {"acme", *names} - shut
    assert len(shut) < len(names), "some customers are in other shards"


async def test_prices_are_written_last(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    await office.sync({"acme": {}})
    before = await office.store.books.schedule()

    async def fail(*_: Any, **__: Any) -> Any:
        raise LedgerUnavailable("gone")

    monkeypatch.setattr(Wallets, "account", fail)
    with pytest.raises(LedgerUnavailable):
        await office.sync(
            {"acme": {"credit_limit": "9.00"}},
            prices={"auto_apply": True},
            models={"small": priced("200.00"), "dear": priced("200.00")},
        )
    assert (await office.store.books.schedule())[0] == before[0]


async def test_a_grant_whose_time_was_over_is_left_out(office: Office) -> None:
    await office.sync({"acme": grant("10.00", expires_at="2020-01-01T00:00:00Z")})
    assert (await office.wallet()).granted_nano == 0


async def test_a_grant_that_has_expired_since_does_not_stop_the_gate(office: Office) -> None:
    customers = {"acme": grant("10.00", expires_at="2020-01-01T00:00:00Z")}
    settings = office.settings(customers)
    expires_ms = settings.starting_grants("acme")[0][1].expires_at_ms
    assert expires_ms is not None
    past = LooseLedger(
        office.ledger.shards.runner, shard_count=SHARDS, clock_ms=lambda: expires_ms - 1000
    )
    await sync_accounts(settings, past.wallets, office.store)
    assert (await office.wallet()).granted_nano == 10 * CREDIT
    await office.sync(customers)
    assert (await office.wallet()).granted_nano == 10 * CREDIT


async def test_two_gates_that_start_at_once_agree(office: Office) -> None:
    customers = {f"c{n}": {**grant("1.00"), "credit_limit": "2.00"} for n in range(30)}
    await asyncio.gather(*(office.sync(customers) for _ in range(4)))
    for customer_id in customers:
        wallet = await office.wallet(customer_id)
        assert (wallet.granted_nano, wallet.credit_limit_nano) == (CREDIT, 2 * CREDIT)


async def test_a_limit_that_another_gate_changed_meanwhile_is_written_after_it(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.sync({"acme": {}})
    working = office.ledger.account
    raced = False

    async def account(customer_id: str, **terms: Any) -> Any:
        nonlocal raced
        if not raced:
            raced = True
            await office.ledger.bump(customer_id)
            await office.ledger.bump(customer_id)
        return await working(customer_id, **terms)

    monkeypatch.setattr(office.ledger, "account", account)
    await office.sync({"acme": {"credit_limit": "5.00"}})
    assert (await office.wallet()).credit_limit_nano == 5 * CREDIT


async def test_a_ledger_that_was_made_otherwise_is_refused(office: Office) -> None:
    await office.sync({"acme": {}})
    other = AccountStore(office.store._client, shard_count=SHARDS * 2)
    with pytest.raises(CannotServe, match=f"set redis.shards to {SHARDS}"):
        await sync_accounts(office.settings({"acme": {}}), office.ledger.wallets, other)


async def test_every_price_version_is_kept(office: Office) -> None:
    settings = office.settings({"acme": {}})
    await sync_accounts(settings, office.ledger.wallets, office.store)
    version = settings.models["small"].price_table("small").price_version
    kept = await office.store.prices.find(version)
    assert kept is not None
    assert kept[0]["output"].dearest_pico == 4_000_000


async def test_a_recurring_grant_that_the_configuration_dropped_goes_on_and_is_told(
    office: Office,
) -> None:
    monthly = {"recurring_grants": [{"name": "monthly", "amount": "20.00"}]}
    with capture_logs() as quiet:
        await office.sync({"acme": monthly})
        await office.sync({"acme": monthly})
    assert [line for line in quiet if line["event"] == "recurring_grant_goes_on"] == []
    with capture_logs() as logs:
        await office.sync({"acme": {}})
    ((told),) = [line for line in logs if line["event"] == "recurring_grant_goes_on"]
    assert (told["customer_id"], told["amount"], told["every"]) == ("acme", "20", "month")
    assert 'amount: "0"' in told["hint"]
    [allowance] = (await office.wallet()).allowances
    assert allowance.amount_nano == 20 * CREDIT
    with capture_logs() as ended:
        await office.sync({"acme": {"recurring_grants": [{"name": "monthly", "amount": "0"}]}})
        await office.sync({"acme": {}})
    assert [line for line in ended if line["event"] == "recurring_grant_goes_on"] == []


GOLD: dict[str, Any] = {"gold": {"prices": {"small": {"input": "2.00", "output": "8.00"}}}}


async def test_a_plan_that_customers_of_the_ledger_are_on_cannot_be_removed(
    office: Office,
) -> None:
    await office.sync({}, plans=GOLD)
    for name in ("one", "two"):
        await office.store.customers.create(CustomerRecord(name, 0, "gold"))
    with pytest.raises(
        CannotServe, match=r"plans\.gold: is missing, and 2 customers in the ledger"
    ):
        await office.sync({})
    record = CustomerRecord("one", 0, "gold")
    await office.store.customers.replace(record, replace(record, status="deleted"))
    record = CustomerRecord("two", 0, "gold")
    await office.store.customers.replace(record, replace(record, plan=None))
    await office.sync({})


async def test_a_new_plan_s_prices_are_in_force_at_once_unless_somebody_is_on_it(
    office: Office,
) -> None:
    await office.sync({})
    synced = await sync_accounts(
        office.settings({}, plans=GOLD), office.ledger.wallets, office.store
    )
    assert synced.prices.state == "in_force"
    _, book = await office.store.books.in_force() or (0, Book({}))
    assert list(book.plans) == ["gold"]
    free = {**GOLD, "plain": {}}
    await office.sync({}, plans=free)
    await office.store.customers.create(CustomerRecord("one", 0, "plain"))
    priced_plain = dict.fromkeys(free, GOLD["gold"])
    synced = await sync_accounts(
        office.settings({}, plans=priced_plain), office.ledger.wallets, office.store
    )
    assert synced.prices.state == "pending", "one pays the model's price so far"
    _, book = await office.store.books.in_force() or (0, Book({}))
    assert list(book.plans) == ["gold"]
