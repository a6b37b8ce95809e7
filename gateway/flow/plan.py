"""How the requests of one account for one model at one route run: compiled at the first of them.

A request looks its plan up; everything that does not depend on the request is decided here, the
customer's mode too: so a request ends in the mode in which it began.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Final, Protocol

from gateway.dialects.base import Dialect, ForwardOptions, RequestFacts
from gateway.domain.customers import Mode, wallet_id
from gateway.domain.reservation import Account
from gateway.domain.usage_facts import RequestLabels
from gateway.flow.catalog import FREE, Catalog, Model, Policy, Route
from gateway.flow.estimate import SCOPED_FIELDS, default_output, scope_of
from gateway.flow.refusals import Refused
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
    account:      that is charged
    facts_packer: packs the facts of their usage events
    packed:       the account in packed form, once `pack` has made it
    meters_by_head: whether the meter reads the head of a response too
    outputs:      takes the output of its responses; see `ExpectedOutput`
    shows_tier:   whether the event names the service tier
    shows_credit: whether responses say what was held, what it cost and what remains
    """

    mode: ClassVar[Mode] = "enforce"

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
        "shows_credit",
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
        self.shows_credit = not model.free and self.mode == "enforce"
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
            mode=self.mode,
        )
        self.facts_packer = FactsPacker(labels)

    def at(self, place: int) -> "Plan":
        """The plan for the upstream at this place of the spread."""
        plan = self._others.get(place)
        if plan is None:
            plan = self._sibling(self.model.at(place))
            plan.place = place
            plan._others = self._others
            self._others[place] = plan
        return plan

    def _sibling(self, model: Model) -> "Plan":
        """The same for the model at another of its upstreams."""
        return type(self)(self.catalog, self.account, self.route, model)

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


class _PassingPlan(Plan):
    """The plan of requests that are forwarded as their clients wrote them."""

    __slots__ = ("_whose",)

    def __init__(self, catalog: Catalog, account: Account, route: Route, model: Model) -> None:
        super().__init__(catalog, account, route, model)
        self._whose = account.customer_id

    def forward_options(self, facts: RequestFacts, lowered: int | None) -> ForwardOptions:  # noqa: ARG002
        """How to write the body out: nothing is filled in, lowered or chosen. What shares state at the
        provider is scoped to the customer, as in `enforce`."""
        options = self.model.forward
        if SCOPED_FIELDS.isdisjoint(facts.document):
            return options
        return replace(options, customer_scope=scope_of(self._whose))


class BypassPlan(_PassingPlan):
    """The plan of requests that bypass the ledger: at the price of 0, and unmetered."""

    __slots__ = ()

    mode = "bypass"

    def __init__(self, catalog: Catalog, account: Account, route: Route, model: Model) -> None:
        asking = replace(model.forward, inject_usage=False, continuous_usage_stats=False)
        super().__init__(
            catalog, account, route, replace(model, prices=FREE, free=True, forward=asking)
        )


class ShadowPlan(_PassingPlan):
    """The plan of requests that are charged to the shadow wallet of their account.

    live:      the account that the key belongs to
    switch:    the change of modes that put the customer into shadow mode
    opened:    the wallet is there, and `account` has its shard and revision
    objection: what refuses all requests of this plan in `enforce`
    """

    __slots__ = ("_unlimited", "live", "objection", "opened", "switch")

    mode = "shadow"

    def __init__(self, catalog: Catalog, account: Account, route: Route, model: Model) -> None:
        self.live = account
        _, self.switch = catalog.modes.of(account.customer_id)
        self.opened = False
        self.objection: Refused | None = None
        self._unlimited: PackedAccount | None = None
        shadow = replace(account, customer_id=wallet_id(account.customer_id, "shadow"))
        super().__init__(catalog, shadow, route, model)
        self._whose = account.customer_id
        self.policy = replace(route.policy, exhausted_stream="pass", answer_cost_header=False)

    def at(self, place: int) -> Plan:
        """The plan for the upstream at this place of the spread, for the same wallet."""
        plan = super().at(place)
        assert isinstance(plan, ShadowPlan)
        plan.objection = self.objection
        if self.opened and plan.account is not self.account:
            plan.enter(self.account)
        return plan

    def _sibling(self, model: Model) -> Plan:
        return ShadowPlan(self.catalog, self.live, self.route, model)

    def enter(self, account: Account) -> None:
        """Charge this account from now on: the same at another revision."""
        self.opened = True
        self.account = account
        self.packed = self._unlimited = None

    def without_limits(self, shards: Shards) -> PackedAccount:
        """The account in packed form, for a request that no limit counts."""
        if self._unlimited is None:
            self._unlimited = shards.pack(replace(self.account, limits=()))
        return self._unlimited


PLANS: Final[dict[Mode, type[Plan]]] = {
    "enforce": Plan,
    "bypass": BypassPlan,
    "shadow": ShadowPlan,
}


def make_plan(catalog: Catalog, account: Account, route: Route, model: Model) -> Plan:
    """The plan in the mode of the account's customer."""
    mode, _ = catalog.modes.of(account.customer_id)
    return PLANS[mode](catalog, account, route, model)
