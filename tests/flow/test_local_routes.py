"""What the gate answers itself."""

from typing import Any

import pytest

from gateway.dialects.models import ModelTerms
from gateway.domain.reservation import Account
from gateway.flow.local_routes import (
    Balance,
    answer_credits,
    answer_health,
    answer_model,
    answer_models,
)
from gateway.flow.refusals import Refused
from gateway.ledger.client.errors import LedgerUnavailable

from .asked import Asked

ALL = Account("acme", "k1", 0, 1)
ONE = Account("acme", "k1", 0, 1, models=frozenset({"b"}))
ANTHROPIC = ("anthropic-version", "2023-06-01")


def no_terms(model: str, account: Account | None) -> ModelTerms:
    return ModelTerms(("default",))


def names(document: Any) -> list[str]:
    return [model["id"] for model in document["data"]]


@pytest.mark.parametrize(("account", "seen"), [(ALL, ["a", "b"]), (ONE, ["b"])])
async def test_a_key_sees_the_models_that_it_may_use(account: Account, seen: list[str]) -> None:
    asked = Asked()
    await answer_models(["a", "b"], 1_760_000_000, no_terms)(asked, account, "r1")
    assert names(asked.document) == seen
    assert asked.document["object"] == "list"
    assert asked.answered[1]["x-request-id"] == "r1"


async def test_an_anthropic_client_sees_them_in_its_own_shape() -> None:
    asked = Asked(ANTHROPIC)
    await answer_models(["a", "b"], 1_760_000_000, no_terms)(asked, ALL, "r1")
    assert names(asked.document) == ["a", "b"]
    assert (asked.document["first_id"], asked.document["last_id"]) == ("a", "b")
    one = Asked(ANTHROPIC)
    await answer_model("a", 1_760_000_000, no_terms)(one, ALL, "r1")
    assert one.document["type"] == "model"


async def test_one_model_is_shown_to_who_may_use_it_and_404_to_others() -> None:
    asked = Asked()
    await answer_model("b", 1_760_000_000, no_terms)(asked, ONE, "r1")
    assert asked.document["id"] == "b"
    with pytest.raises(Refused) as refused:
        await answer_model("a", 1_760_000_000, no_terms)(Asked(), ONE, "r1")
    assert (refused.value.kind, refused.value.code) == ("unknown_model", "model_not_found")


def balance(**changes: Any) -> Balance:
    given = {
        "balance_nano": 7_500_000_000,
        "held_nano": 500_000_000,
        "available_nano": 9_000_000_000,
        "credit_limit_nano": 2_000_000_000,
        "granted_nano": 10_000_000_000,
        "settled_nano": 2_500_000_000,
        "settled_today_nano": 1,
    }
    return Balance(**{**given, **changes})


async def shown(found: Balance | None) -> Asked:
    async def read(account: Account) -> Balance | None:
        assert account is ALL
        return found

    asked = Asked()
    await answer_credits(read)(asked, ALL, "r1")
    return asked


async def test_the_balance_is_said_in_exact_decimals_and_never_kept_by_a_cache() -> None:
    asked = await shown(balance())
    data: Any = asked.document["data"]
    assert data == {
        "object": "credits",
        "label": "k1",
        "customer": "acme",
        "limit": "12",
        "limit_remaining": "9",
        "usage": "2.5",
        "usage_daily": "0.000000001",
        "balance": "7.5",
        "held": "0.5",
        "available": "9",
        "credit_limit": "2",
        "limits": [],
    }
    assert asked.answered[1]["cache-control"] == "no-store"


async def test_today_s_usage_is_null_while_the_store_cannot_say() -> None:
    data: Any = (await shown(balance(settled_today_nano=None))).document["data"]
    assert data["usage_daily"] is None


async def test_a_debt_is_negative() -> None:
    data: Any = (await shown(balance(balance_nano=-1_500_000_000))).document["data"]
    assert data["balance"] == "-1.5"


async def test_a_wallet_that_the_ledger_has_lost_makes_no_key_invalid() -> None:
    with pytest.raises(LedgerUnavailable, match="no wallet of acme"):
        await shown(None)


async def test_health_names_what_refuses_some_requests_alone() -> None:
    asked = Asked()
    await answer_health(lambda: None, lambda: ("shard_3_frozen",))(asked, None, "r1")
    assert asked.answered[0] == 200
    assert asked.document == {"status": "ok", "degraded": ["shard_3_frozen"]}


@pytest.mark.parametrize(("problem", "status"), [(None, 200), ("ledger_unreachable", 503)])
async def test_health_says_what_is_wrong(problem: str | None, status: int) -> None:
    asked = Asked()
    await answer_health(lambda: problem)(asked, None, "r1")
    assert asked.answered[0] == status
    assert asked.document == {"status": problem or "ok"}
