"""Customers as the flow knows them, from the configuration or from a record in the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.customers import CustomerRecord
from gateway.domain.limits import Limit, replace_limits
from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import Account, Key

_NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Customer:
    """What is known of one customer, before any key of theirs.

    projects:     limits of some projects alone
    plan, prices: of a customer in the ledger: the plan, and its own prices by model
    suspended:    so is this
    """

    customer_id: str
    shard: int
    limits: tuple[Limit, ...]
    models: frozenset[str] | None
    livemode: bool
    tags: Mapping[str, str]
    projects: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    plan: str | None = None
    prices: Mapping[str, PriceTable] = field(default_factory=dict)
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What a plan gives its customers besides credit and prices. models: None means all."""

    limits: tuple[Limit, ...] = ()
    models: frozenset[str] | None = None


def customer_of_record(
    record: CustomerRecord, plan: PlanTerms, shard: int, prices: Mapping[str, PriceTable]
) -> Customer:
    """A customer in the ledger. prices: its own, by model"""
    return Customer(
        record.customer_id,
        shard,
        limits=replace_limits(plan.limits, record.limits) if record.limits else plan.limits,
        models=plan.models if record.models is None else record.models,
        livemode=True,
        tags=record.tags,
        projects=record.projects,
        plan=record.plan,
        prices=prices,
        suspended=record.status == "suspended",
    )


def account_of(customer: Customer, key: Key, account_rev: int, shard: int | None = None) -> Account:
    """Whom a request with this key is charged to: the customer, narrowed down by the key.

    shard: of the key's wallet; None for that of the customer
    """
    models = customer.models if key.models is None else key.models
    if customer.models is not None and key.models is not None:
        models = customer.models & key.models
    own = (*customer.projects.get(key.project_id or "", ()), *key.limits)
    # Many accounts have the limits of their plan and no tags: they share them.
    return Account(
        customer_id=key.account_id,
        key_id=key.key_id,
        project_id=key.project_id,
        shard=customer.shard if shard is None else shard,
        account_rev=account_rev,
        limits=replace_limits(customer.limits, own) if own else customer.limits,
        models=models,
        livemode=customer.livemode and not key.test,
        tags={**customer.tags, **key.tags} if key.tags else customer.tags or _NOTHING,
        plan=customer.plan,
        prices=customer.prices,
        restrictions=key.restrictions,
        suspended=customer.suspended,
    )
