"""Plans are kept for what they were made for, and for nothing else."""

from dataclasses import replace
from typing import Any

from gateway.dialects import DIALECTS
from gateway.dialects.base import ReadOptions
from gateway.domain.reservation import Account
from gateway.flow.catalog import Catalog, Route
from gateway.flow.plan_book import MOST_ACCOUNTS, PlanBook
from gateway.settings.policy import PRESETS, PolicySection

ACME = Account("acme", "k1", 0, 1)
POLICY = PolicySection().resolve(PRESETS["balanced"]).flow()
ROUTE, OTHER = (
    Route("/v1/x", frozenset({method}), DIALECTS["openai_chat"], ReadOptions(), POLICY)
    for method in ("POST", "PUT")
)
CATALOG = Catalog({}, {}, DIALECTS["generic"], max_body_bytes=1)
ACCOUNTS: Any = object()


def test_equal_accounts_share_their_plans_at_a_route() -> None:
    book = PlanBook()
    first = book.plans(CATALOG, ACCOUNTS, ACME, ROUTE)
    assert book.plans(CATALOG, ACCOUNTS, replace(ACME), ROUTE) is first


def test_another_route_key_project_revision_or_configuration_has_plans_of_its_own() -> None:
    book = PlanBook()
    first = book.plans(CATALOG, ACCOUNTS, ACME, ROUTE)
    assert book.plans(CATALOG, ACCOUNTS, ACME, OTHER) is not first, "the same path, another method"
    for changed in ({"key_id": "k2"}, {"project_id": "p"}, {"account_rev": 2}):
        assert book.plans(CATALOG, ACCOUNTS, replace(ACME, **changed), ROUTE) is not first
    assert book.plans(CATALOG, ACCOUNTS, ACME, ROUTE) is first
    other: Any = object()
    assert book.plans(CATALOG, other, ACME, ROUTE) is not first
    assert book.plans(replace(CATALOG, max_body_bytes=2), other, ACME, ROUTE) is not first


def test_a_full_book_starts_over() -> None:
    book = PlanBook()
    for number in range(MOST_ACCOUNTS + 1):
        book.plans(CATALOG, ACCOUNTS, replace(ACME, key_id=f"k{number}"), ROUTE)
    assert len(book._plans) == 1
