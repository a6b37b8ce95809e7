"""Customers that only the ledger knows: looked up once, kept within a bound, read again when they change."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import redis.asyncio

from gateway.domain.customers import CustomerRecord
from gateway.domain.limits import Limit
from gateway.flow import authentication as module
from gateway.flow.account_sources import KnownAccounts
from gateway.flow.authentication import Accounts
from gateway.flow.customers import PlanTerms
from gateway.flow.refusals import Refused
from gateway.ledger.client.errors import LedgerUnavailable
from tests.support.bank import Bank

from .asked import Asked
from .test_authentication import Directory, sha256

PLAN = PlanTerms((Limit("customer", "requests", "day", 5),), frozenset({"small"}))
PLANS: Mapping[str, PlanTerms] = {"": PlanTerms(), "starter": PLAN}
NEWCO = CustomerRecord("newco", 1, "starter")
ASKED = Asked(key="sk-newco")


@pytest.fixture
async def bank(valkey: redis.asyncio.Redis) -> Bank:
    opened = Bank(valkey)
    await opened.accounts.creation.record()
    await add(opened, NEWCO)
    return opened


async def add(bank: Bank, record: CustomerRecord) -> None:
    """A customer with a wallet and a key `sk-CUSTOMER`."""
    name = record.customer_id
    await bank.accounts.customers.create(record)
    await bank.open(name)
    await bank.accounts.keys.add(sha256(f"sk-{name}"), f"k-{name}", name)


async def change(bank: Bank, before: CustomerRecord, after: CustomerRecord) -> None:
    """Change a record as operators do."""
    await bank.accounts.customers.replace(before, after)
    await bank.operator.bump(before.customer_id)


def asking(directory: Directory, plans: Mapping[str, PlanTerms] = PLANS) -> Accounts:
    """A worker without configured customers."""
    return Accounts(KnownAccounts({}, {}, {}, plans, shard_count=4), directory)


async def test_a_customer_gets_what_its_plan_gives_and_its_record_adds(bank: Bank) -> None:
    own = Limit("customer", "spend", "day", 7)
    await change(bank, NEWCO, replace(NEWCO, limits=(own,), tags={"region": "eu"}))
    account = await asking(Directory(bank.accounts)).authenticate(ASKED)
    assert (account.models, account.tags) == (PLAN.models, {"region": "eu"})
    assert account.limits == (*PLAN.limits, own)
    assert (account.plan, account.key_id) == ("starter", "k-newco")


async def test_a_customer_whose_plan_is_not_configured_here_is_not_taken_for_unknown(
    bank: Bank,
) -> None:
    directory = Directory(bank.accounts)
    gate = asking(directory, {"": PlanTerms()})
    for _ in range(2):
        with pytest.raises(LedgerUnavailable, match="the plan starter of newco is not configured"):
            await gate.authenticate(ASKED)
    assert directory.asked == ["key", "account"] * 2, "it is served as soon as the plan is"


async def test_a_customer_with_a_price_that_is_not_kept_is_not_served_at_another(
    bank: Bank,
) -> None:
    await change(bank, NEWCO, replace(NEWCO, prices={"small": "p_gone"}))
    with pytest.raises(LedgerUnavailable, match="no price p_gone, which newco pays"):
        await asking(Directory(bank.accounts)).authenticate(ASKED)


async def test_an_announced_change_is_read_before_the_next_request_is_admitted(
    bank: Bank,
) -> None:
    directory = Directory(bank.accounts)
    gate = asking(directory)
    known = await gate.authenticate(ASKED)
    await change(bank, NEWCO, replace(NEWCO, models=frozenset()))
    assert await gate.authenticate(ASKED) is known, "nothing has been announced"
    revision = gate.revision
    gate.forget("newco")
    assert gate.revision > revision, "what was concluded about the account is concluded again"
    assert not gate.is_current(known)
    fresh = await gate.authenticate(ASKED)
    assert (fresh.models, fresh.account_rev) == (frozenset(), known.account_rev + 1)


async def test_an_announcement_of_an_account_that_is_not_known_here_costs_nothing(
    bank: Bank,
) -> None:
    directory = Directory(bank.accounts)
    gate = asking(directory)
    known = await gate.authenticate(ASKED)
    revision, asked = gate.revision, len(directory.asked)
    gate.forget("somebody")
    assert (await gate.authenticate(ASKED), gate.revision) == (known, revision)
    assert len(directory.asked) == asked


async def test_a_deleted_customer_is_unknown_although_its_key_is_there(bank: Bank) -> None:
    gate = asking(Directory(bank.accounts))
    await gate.authenticate(ASKED)
    await change(bank, NEWCO, replace(NEWCO, status="deleted"))
    gate.forget("newco")
    with pytest.raises(Refused, match="not known"):
        await gate.authenticate(ASKED)


async def test_however_many_customers_ask_few_are_kept(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOOKED_UP", 3)
    directory = Directory(bank.accounts)
    gate = asking(directory)
    names = [f"c{number}" for number in range(5)]
    for name in names:
        await add(bank, CustomerRecord(name, 1, "starter"))
        await gate.authenticate(Asked(key=f"sk-{name}"))
    assert (len(gate._looked_up), len(gate._read_revisions)) == (3, 3)
    asked = len(directory.asked)
    await gate.authenticate(Asked(key="sk-c4"))
    assert len(directory.asked) == asked
    await gate.authenticate(Asked(key="sk-c0"))
    assert len(directory.asked) > asked, "the one that was used least recently had to go"
