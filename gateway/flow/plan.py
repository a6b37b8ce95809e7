"""How the requests of one account for one model at one route run: compiled at the first of them.

A request looks its plan up; everything that does not depend on the request is decided here.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from gateway.dialects.base import Dialect, ForwardOptions, RequestFacts
from gateway.domain.reservation import Account
from gateway.domain.usage_facts import RequestLabels
from gateway.flow.catalog import Catalog, Model, Policy, Route
from gateway.flow.estimate import SCOPED_FIELDS, default_output, scope_of
from gateway.ledger.codec.packed_account import PackedAccount
from gateway.ledger.codec.usage_facts import FactsPacker
from gateway.ledger.shards import Shards


class Noting(Protocol):
    """What learns how much output responses have."""

    def note(self, output: int) -> None:
        """A response has ended with so many output tokens."""
        ...


class Plan:
    """Account, route and model of a request, with what follows from the three. A model with several
    upstreams has a plan for each.

    breaker:      of the upstream
    head_arrived: takes the seconds until the heads of its responses; the observer's
    spread:       the model's upstreams, where there are several; the upstream's place among them is
                  `place`
    facts_packer: packs the facts of their usage events
    packed:       the account in packed form, once `pack` has made it
    meters_by_head: whether the meter reads the head of a response too
    outputs:      takes the output of its responses; see `ExpectedOutput`
    shows_tier:   whether the event names the service tier
    """

    __slots__ = (
        "_default",
        "_others",
        "_scoped",
        "account",
        "breaker",
        "catalog",
        "facts_packer",
        "head_arrived",
        "meters_by_head",
        "model",
        "outputs",
        "packed",
        "place",
        "policy",
        "route",
        "shows_tier",
        "spread",
    )

    def __init__(self, catalog: Catalog, account: Account, route: Route, model: Model) -> None:
        self.catalog = catalog
        self.account = account
        self.packed: PackedAccount | None = None
        self.route = route
        self.model = model
        self.breaker = model.upstream.breaker
        self.spread = model.spread
        self.place = 0
        self.head_arrived: Callable[[float], None] | None = None
        self._others = {0: self}
        self.policy: Policy = route.policy
        self.meters_by_head = type(route.dialect).meter_answer is not Dialect.meter_answer
        self.shows_tier = len(model.prices.service_tiers) > 1
        self._default = default_output(model, self.policy)
        self.outputs: Noting | None = None
        self._scoped: ForwardOptions | None = None
        labels = RequestLabels(
            customer_id=account.customer_id,
            project_id=account.project_id,
            key_id=account.key_id,
            route=route.path,
            model=model.name,
            upstream=model.upstream.name,
            price_version=model.prices.price_version,
            livemode=account.livemode,
            tags=dict(account.tags),
            mode=catalog.mode,
        )
        self.facts_packer = FactsPacker(labels)

    def at(self, place: int) -> "Plan":
        """The plan for the upstream at this place of the spread."""
        plan = self._others.get(place)
        if plan is None:
            plan = Plan(self.catalog, self.account, self.route, self.model.at(place))
            plan.place = place
            plan._others = self._others
            self._others[place] = plan
        return plan

    def pack(self, shards: Shards) -> PackedAccount:
        """The account in packed form, packed once."""
        if self.packed is None:
            self.packed = shards.pack(self.account)
        return self.packed

    def forward_options(self, facts: RequestFacts, lowered: int | None) -> ForwardOptions:
        """How to write the body out for the upstream.

        The output maximum that the estimate assumed is filled in where the caller gave none and the
        upstream's own could be higher, or where the gate lowered it. Names that share state at the
        provider are scoped to the customer.
        """
        options = self.model.forward
        document = facts.document
        if "service_tier" in document and facts.service_tier is None:
            chosen = self.model.chosen_tiers
            if len(chosen) == 1:
                options = replace(options, service_tier=chosen[0])
        if lowered is not None:
            options = replace(options, max_output=lowered, lowers=True)
        elif facts.output_bound is None and facts.limits_output and self._default is not None:
            options = replace(options, max_output=self._default)
        if SCOPED_FIELDS.isdisjoint(document):
            return options
        if options is not self.model.forward:
            return replace(options, customer_scope=scope_of(self.account.customer_id))
        if self._scoped is None:
            self._scoped = replace(options, customer_scope=scope_of(self.account.customer_id))
        return self._scoped
