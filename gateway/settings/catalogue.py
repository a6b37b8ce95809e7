"""Sections for what is offered: models with their prices, and the routes that are allowed."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from gateway.domain.pricing import PriceTable, compile_prices
from gateway.settings.policy import PolicySection
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    Id,
    ModelName,
    RoutePath,
    Section,
    Switch,
    Text,
    TokenRate,
    Tokens,
    UnitRate,
    Whole,
    field,
)

PER_UNIT_FIELDS: Final = {"per_request": "request", "per_tool_call": "tool_call"}
"""Fields of a price that are for one, with the unit that each prices."""


class RatesSection(Section):
    """Credits per million tokens of each class, and credits for one of what is not a token.

    The classes exclude each other. One without a price of its own is charged as its parent:
    cache_read, cache_write, audio_input and image_input as input, cache_write_1h as cache_write,
    reasoning and audio_output as output.
    """

    input: TokenRate | None = field("Credits per million input tokens.", "3.00", None)
    cache_read: TokenRate | None = field(
        "Credits per million input tokens read from the provider's cache.", "0.30", None
    )
    cache_write: TokenRate | None = field(
        "Credits per million input tokens written to the cache.", "3.75", None
    )
    cache_write_1h: TokenRate | None = field(
        "Credits per million input tokens written to the cache for an hour.", "6.00", None
    )
    output: TokenRate | None = field("Credits per million output tokens.", "15.00", None)
    reasoning: TokenRate | None = field(
        "Credits per million output tokens that the caller does not see.", "15.00", None
    )
    audio_input: TokenRate | None = field("Credits per million tokens of audio in.", "40.00", None)
    audio_output: TokenRate | None = field(
        "Credits per million tokens of audio out.", "80.00", None
    )
    image_input: TokenRate | None = field("Credits per million tokens of images in.", "5.00", None)
    per_request: UnitRate | None = field("Credits for each request.", "0.001", None)
    per_tool_call: UnitRate | None = field(
        "Credits for each call of a hosted tool that the route prices.", "0.01", None
    )

    def rates_pico(self) -> dict[str, int]:
        """The rates that are set, in pico-credits, by unit."""
        named = {
            PER_UNIT_FIELDS.get(name, name): getattr(self, name) for name in type(self).model_fields
        }
        return {unit: rate for unit, rate in named.items() if rate is not None}


class PricesSection(RatesSection):
    __doc__ = RatesSection.__doc__

    @model_validator(mode="after")
    def _nothing_free_by_omission(self) -> "PricesSection":
        rates = self.rates_pico()
        if not rates:
            raise Wrong("no price is given", 'Write `input` and `output`; "0" where it is free.')
        tokens = set(rates) - set(PER_UNIT_FIELDS.values())
        for side in ("input", "output"):
            if tokens and side not in tokens:
                raise Wrong(
                    "has no price, so its tokens would be free",
                    f'Write `{side}: "0"` if that is meant.',
                    at=side,
                )
        return self


class ModelSection(Section):
    """One model that callers may name. What has no entry here is refused."""

    upstream: Text = field("The upstream that serves it.", "openai")
    upstream_model: ModelName | None = field(
        "Its name there, when it is another.", "gpt-4.1-2025-04-14", None
    )
    prices: PricesSection = field(
        "What the customer is charged.", {"input": "3.00", "output": "15.00"}
    )
    costs: RatesSection | None = field(
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
    group: Id | None = field(
        "Its group, for grants that pay only for some models.", "premium", None
    )

    def price_table(self) -> PriceTable:
        """Its prices and costs, compiled to rows."""
        return compile_prices(
            self.prices.rates_pico(), self.costs.rates_pico() if self.costs else None
        )


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
