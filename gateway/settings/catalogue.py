"""Sections for what is offered: models with their prices, and the routes that are allowed."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gateway.dialects.any_api.quantities import Quantity
from gateway.domain.pricebook import Price
from gateway.domain.pricing import PriceTable
from gateway.settings.metering import MeterField, QuantitySection, QueryName
from gateway.settings.policy import PolicySection
from gateway.settings.prices import PER_UNIT_FIELDS, CostsSection, PricesSection
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    Id,
    ModelName,
    RoutePath,
    Section,
    Switch,
    Text,
    Tokens,
    Whole,
    field,
)


class ModelSection(Section):
    """One model that callers may name. What has no entry here is refused."""

    upstream: Text = field("The upstream that serves it.", "openai")
    upstream_model: ModelName | None = field(
        "Its name there, when it is another.", "gpt-4.1-2025-04-14", None
    )
    prices: PricesSection = field(
        "What the customer is charged.", {"input": "3.00", "output": "15.00"}
    )
    costs: CostsSection | None = field(
        "What the provider bills the operator: for the margin on the event, never charged.",
        {"input": "2.00", "output": "8.00"},
        None,
    )
    max_output_tokens: Tokens = field(
        "The most that one answer can have; a request for more is refused with 400.", 16_384
    )
    context_tokens: Tokens | None = field(
        "The model's context window: no input is bounded above it.", 128_000, None
    )
    hidden_output: Switch = field(
        "It reasons before it shows anything: a caller who leaves early still owes it.", True, False
    )
    auto_service_tiers: Annotated[
        tuple[Literal["default", "flex", "priority", "scale", "performance"], ...],
        Field(min_length=1),
    ] = field(
        "Which service tiers the provider may choose for a request that names none, or `auto`. The "
        "hold is for the dearest of them; an answer that does not say its tier is charged at the "
        "first. With one alone, `auto` is sent as that.",
        ["default", "priority"],
        ("default",),
    )
    group: Id | None = field(
        "Its group, for grants that pay only for some models.", "premium", None
    )

    def price(self, name: str, override: PricesSection | None = None) -> Price:
        """Its price, or the one that takes its place, with its costs. Raises Wrong.

        name: its own, by which periods count
        """
        return (override or self.prices).price(self.costs, counter=name)

    def price_table(self, name: str) -> PriceTable:
        """Its prices and costs, compiled to rows."""
        return self.price(name).table()


Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class RouteSection(Section):
    """One allowed endpoint. What matches no route is answered 404, never forwarded.

    `GET /v1/models` and `GET /v1/credits` are the gate's own and need no route. A route with `prices`
    of its own serves any API: it is priced like a model of the route's name, and what a plan, a
    customer or a key says of models it can say of the route (docs/how-to/any-api.md).
    """

    path: RoutePath = field(
        "The whole path, as callers send it; `{name}`, or `{name}:suffix`, stands for one segment.",
        "/v1/chat/completions",
    )
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = field(
        "Allowed methods.", ["POST"], ("POST",)
    )
    dialect: Text = field("Which API is spoken there; see the list below.", "openai_chat")
    free: Switch = field(
        "Forwarded without a reservation or a charge; the key is still checked.", True, False
    )
    upstream: Text | None = field(
        "Where the requests go: of a route with prices of its own, or of a free one whose requests "
        "name no model.",
        "openai",
        None,
    )
    prices: PricesSection | None = field(
        "What a request is charged here, whatever it says of models.",
        {"per_request": "0.001"},
        None,
    )
    costs: CostsSection | None = field(
        "What the provider bills for it; never charged.", {"per_request": "0.0005"}, None
    )
    group: Id | None = field(
        "Its group, for grants that pay only for some models.", "premium", None
    )
    meter: Mapping[MeterField, QuantitySection] = field(
        "Where the quantity of each class in `prices` comes from; `per_request` is one.",
        {"per_image": {"request_pointer": "/n", "at_most": 10, "default": 1}},
        factory=dict,
    )
    query: tuple[QueryName, ...] = field(
        "Parameters of the query that pass, of a route with an `upstream`; others are refused.",
        ["page"],
        (),
    )
    charge_errors: Switch = field(
        "Charge answers other than 2xx too, of a route with prices of its own.", True, False
    )
    priced_tools: tuple[Text, ...] = field(
        "Hosted tools that `per_tool_call` pays for; others that bill by the call are refused, unless "
        "`unknown_tools` lets them pass.",
        ["web_search"],
        (),
    )
    max_tool_calls: Annotated[int, Whole(1, 1024)] | None = field(
        "Calls of `priced_tools` that a request which names no maximum may make; the gate holds them "
        "and writes the maximum into the request. Without it such a request is refused.",
        8,
        None,
    )
    unknown_tools: Literal["refuse", "pass"] = field(
        "Tools that are neither in `priced_tools` nor run by the caller (functions are, and shells, "
        "editors and computers of the caller's): refuse the request, or let them `pass`. What the "
        "provider bills by the call is then yours to pay; tokens are charged as it reports them.",
        "pass",
        "refuse",
    )
    extra_fields: tuple[Text, ...] = field(
        "Names at the top of a JSON body that pass although the gate does not list them as harmless. "
        "They are forwarded as they are: list none that changes the price or selects another upstream.",
        ["min_tokens"],
        (),
    )
    allow_stateful_ids: Switch = field(
        "Let through `previous_response_id`, file ids and such. Only where the upstream's "
        "credential belongs to one customer: they would cross customers.",
        True,
        False,
    )
    min_audio_bytes_per_second: Annotated[int, Whole(1, 1_000_000)] = field(
        "The fewest bytes that a second of sound has: what is uploaded is held as this long.",
        1000,
        500,
    )
    policy: PolicySection = field(
        "Knobs that differ on this route.", {"preset": "strict"}, factory=PolicySection
    )

    @model_validator(mode="after")
    def _upstream_if_free(self) -> "RouteSection":
        if self.upstream is not None and not self.free and self.prices is None:
            raise Wrong(
                "is only for free routes and for those with `prices`: a priced request goes where "
                "its model is",
                "Leave it out, or set `free: true`.",
                at="upstream",
            )
        return self

    @model_validator(mode="after")
    def _one_price(self) -> "RouteSection":
        if self.prices is None:
            for name, value in (
                ("costs", self.costs),
                ("group", self.group),
                ("meter", self.meter),
                ("charge_errors", self.charge_errors),
            ):
                if value:
                    raise Wrong("is for a route with `prices` of its own", "Leave it out.", at=name)
        elif self.free:
            raise Wrong("a free route has no prices", "Leave out one of the two.", at="free")
        elif self.upstream is None:
            raise Wrong(
                "is missing", "A route with prices of its own says where it goes.", at="upstream"
            )
        if self.query and self.upstream is None:
            raise Wrong("is for a route with an `upstream`", "Leave it out.", at="query")
        return self

    def price(self, name: str, override: PricesSection | None = None) -> Price:
        """Its own price, or the one that takes its place, with its costs. Raises Wrong.

        name: its own, by which periods count
        """
        assert self.prices is not None, "asked of routes with prices alone"
        return (override or self.prices).price(self.costs, counter=name)

    def quantities(self, *, total_ms: int, max_body_bytes: int) -> tuple[Quantity, ...]:
        """What it meters. total_ms: of its upstream's timeouts."""
        bounds = {"total_ms": total_ms, "max_body_bytes": max_body_bytes}
        return tuple(
            section.compiled(PER_UNIT_FIELDS.get(name, name), **bounds)
            for name, section in self.meter.items()
        )


Priced = ModelSection | RouteSection
"""What has a price that goes by its name."""


GroupBit = Annotated[int, Whole(1, 32)]
