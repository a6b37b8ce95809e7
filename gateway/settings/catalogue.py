"""Sections for what is offered: models with their prices, and the routes that are allowed."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gateway.domain.pricebook import Price
from gateway.domain.pricing import PriceTable
from gateway.settings.policy import PolicySection
from gateway.settings.prices import CostsSection, PricesSection
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

    `GET /v1/models` and `GET /v1/credits` are the gate's own and need no route.
    """

    path: RoutePath = field("The whole path, as callers send it.", "/v1/chat/completions")
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = field(
        "Allowed methods.", ["POST"], ("POST",)
    )
    dialect: Text = field("Which API is spoken there; see the list below.", "openai_chat")
    free: Switch = field(
        "Forwarded without a reservation or a charge; the key is still checked.", True, False
    )
    upstream: Text | None = field(
        "Of a free route whose requests name no model: where they go.", "openai", None
    )
    priced_tools: tuple[Text, ...] = field(
        "Hosted tools that `per_tool_call` pays for; others that bill by the call are refused.",
        ["web_search"],
        (),
    )
    allow_stateful_ids: Switch = field(
        "Let through `previous_response_id`, file ids and such. Only where the upstream's "
        "credential belongs to one customer: they would cross customers.",
        True,
        False,
    )
    policy: PolicySection = field(
        "Knobs that differ on this route.", {"preset": "strict"}, factory=PolicySection
    )

    @model_validator(mode="after")
    def _upstream_if_free(self) -> "RouteSection":
        if self.upstream is not None and not self.free:
            raise Wrong(
                "is only for free routes: a priced request goes where its model is",
                "Leave it out, or set `free: true`.",
                at="upstream",
            )
        return self


GroupBit = Annotated[int, Whole(1, 32)]
