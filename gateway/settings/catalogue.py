"""Sections for models with their prices, and for allowed routes."""

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


class ServedBySection(Section):
    """One of several upstreams of a model."""

    upstream: Text = field("Name of the upstream.", "openai")
    weight: Annotated[int, Whole(0, 1000)] = field(
        "Its share of the requests, relative to the other weights. 0: it serves only what no upstream"
        " with a weight can take.",
        3,
        1,
    )
    upstream_model: ModelName | None = field(
        "The model's name at this upstream, if it differs from the model's `upstream_model`.",
        "gpt-4.1-deployment",
        None,
    )


class ModelSection(Section):
    """One model that callers may request. Models without an entry are refused."""

    upstream: Text | None = field("Upstream that serves the model.", "openai", None)
    upstreams: tuple[ServedBySection, ...] = field(
        "Several upstreams that serve the model, instead of `upstream` (docs/how-to/upstreams.md).",
        [{"upstream": "openai", "weight": 3}, {"upstream": "azure", "weight": 1}],
        (),
    )
    upstream_model: ModelName | None = field(
        "The model's name at the upstream, if it differs.", "gpt-4.1-2025-04-14", None
    )
    prices: PricesSection = field(
        "What the customer is charged.", {"input": "3.00", "output": "15.00"}
    )
    costs: CostsSection | None = field(
        "What the provider bills the operator. Recorded on the event for the margin, never "
        "charged.",
        {"input": "2.00", "output": "8.00"},
        None,
    )
    max_output_tokens: Tokens = field(
        "Largest output of one response; a request for more is refused with 400.", 16_384
    )
    context_tokens: Tokens | None = field(
        "The model's context window, the upper bound of any input.", 128_000, None
    )
    hidden_output: Switch = field(
        "The model reasons before it shows anything. A caller who leaves early still pays for it.",
        True,
        False,
    )
    auto_service_tiers: Annotated[
        tuple[Literal["default", "flex", "priority", "scale", "performance"], ...],
        Field(min_length=1),
    ] = field(
        "Service tiers that the provider may choose for a request that names none, or `auto`. The"
        " hold uses the most expensive of them; a response that does not name its tier is charged"
        " at the first. With a single tier, `auto` is sent as that tier.",
        ["default", "priority"],
        ("default",),
    )
    group: Id | None = field(
        "Model group, for grants that pay only for some models.", "premium", None
    )

    @model_validator(mode="after")
    def _served(self) -> "ModelSection":
        if self.upstream is None and not self.upstreams:
            raise Wrong("is missing", "For example: `upstream: openai`.", at="upstream")
        if self.upstream is not None and self.upstreams:
            raise Wrong("cannot be combined with `upstreams`", "Remove one of them.", at="upstream")
        names = [each.upstream for each in self.upstreams]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise Wrong(f"lists {name!r} twice", "Add up their weights.", at="upstreams")
        if names and not any(each.weight for each in self.upstreams):
            raise Wrong("has no weight above 0", "Give one upstream a weight.", at="upstreams")
        return self

    @property
    def served_by(self) -> tuple[ServedBySection, ...]:
        """Its upstreams, at least one."""
        if self.upstream is None:
            return self.upstreams
        return (ServedBySection(upstream=self.upstream),)

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
    """One allowed endpoint. A path without a route is answered 404, never forwarded.

    The gate answers `GET /v1/models` and `GET /v1/credits` itself; they need no route. A route
    with `prices` serves any API. It is priced like a model of the route's name, and plans,
    customers and keys can refer to it like to a model (docs/how-to/any-api.md).
    """

    path: RoutePath = field(
        "Complete path, as callers send it; `{name}` or `{name}:suffix` matches one segment.",
        "/v1/chat/completions",
    )
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = field(
        "Allowed methods.", ["POST"], ("POST",)
    )
    dialect: Text = field("API of the endpoint; see the list below.", "openai_chat")
    free: Switch = field(
        "Charge nothing: the price is 0. Key, freeze and limits still apply.", True, False
    )
    upstream: Text | None = field(
        "Upstream of a route with `prices`, or of a free route whose requests name no model.",
        "openai",
        None,
    )
    prices: PricesSection | None = field(
        "What a request on this route is charged, whatever model it names.",
        {"per_request": "0.001"},
        None,
    )
    costs: CostsSection | None = field(
        "What the provider bills for it; never charged.", {"per_request": "0.0005"}, None
    )
    group: Id | None = field(
        "Model group, for grants that pay only for some models.", "premium", None
    )
    meter: Mapping[MeterField, QuantitySection] = field(
        "Where the quantity of each class in `prices` comes from; `per_request` needs no entry.",
        {"per_image": {"request_pointer": "/n", "at_most": 10, "default": 1}},
        factory=dict,
    )
    query: tuple[QueryName, ...] = field(
        "Query parameters that pass, for a route with an `upstream`; others are refused.",
        ["page"],
        (),
    )
    charge_errors: Switch = field(
        "Also charge responses other than 2xx, for a route with `prices`.", True, False
    )
    priced_tools: tuple[Text, ...] = field(
        "Hosted tools that `per_tool_call` covers. Other tools that the provider bills per call "
        "are refused, unless `unknown_tools` is `pass`.",
        ["web_search"],
        (),
    )
    max_tool_calls: Annotated[int, Whole(1, 1024)] | None = field(
        "Maximum calls of `priced_tools` for a request that names none. The gate holds them and "
        "writes the maximum into the request. Without this setting such a request is refused.",
        8,
        None,
    )
    unknown_tools: Literal["refuse", "pass"] = field(
        "What happens to tools that are neither in `priced_tools` nor run by the caller "
        "(functions, and the caller's shells, editors and computers): `refuse` the request, or "
        "`pass` them. With `pass` you pay what the provider bills per call; tokens are charged as"
        " the provider reports them.",
        "pass",
        "refuse",
    )
    extra_fields: tuple[Text, ...] = field(
        "Top-level fields of a JSON body that pass in addition to the gate's list. They are "
        "forwarded unchanged: list none that changes the price or selects another upstream.",
        ["min_tokens"],
        (),
    )
    allow_stateful_ids: Switch = field(
        "Allow `previous_response_id`, file ids and similar references. Only for an upstream "
        "whose credential belongs to one customer: otherwise customers could refer to each "
        "other's data.",
        True,
        False,
    )
    min_audio_bytes_per_second: Annotated[int, Whole(1, 1_000_000)] = field(
        "Minimum bytes per second of audio: bounds the duration of an upload.",
        1000,
        500,
    )
    policy: PolicySection = field(
        "Policy settings that differ on this route.", {"preset": "strict"}, factory=PolicySection
    )

    @model_validator(mode="after")
    def _upstream_if_free(self) -> "RouteSection":
        if self.upstream is not None and not self.free and self.prices is None:
            raise Wrong(
                "applies only to free routes and routes with `prices`: other requests go to their"
                " model's upstream",
                "Remove it, or set `free: true`.",
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
                    raise Wrong("applies only to a route with `prices`", "Remove it.", at=name)
        elif self.free:
            raise Wrong("a free route has no prices", "Remove one of them.", at="free")
        elif self.upstream is None:
            raise Wrong("is missing", "A route with `prices` needs an upstream.", at="upstream")
        if self.query and self.upstream is None:
            raise Wrong("applies only to a route with an `upstream`", "Remove it.", at="query")
        return self

    def price(self, name: str, override: PricesSection | None = None) -> Price:
        """Its own price, or the one that takes its place, with its costs. Raises Wrong.

        name: its own, by which periods count
        """
        assert self.prices is not None, "call this only for routes with prices"
        return (override or self.prices).price(self.costs, counter=name)

    def quantities(self, *, total_ms: int, max_body_bytes: int) -> tuple[Quantity, ...]:
        """Build what the route meters. total_ms: from the upstream's timeouts."""
        bounds = {"total_ms": total_ms, "max_body_bytes": max_body_bytes}
        return tuple(
            section.compiled(PER_UNIT_FIELDS.get(name, name), **bounds)
            for name, section in self.meter.items()
        )


Priced = ModelSection | RouteSection
"""Anything priced under its name: a model, or a route with prices."""


GroupBit = Annotated[int, Whole(1, 32)]
