"""What the flow looks up for each request: routes, models, policies. Built once per configuration.

Everything here is compiled from the settings at start or reload; a request only looks up.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from gateway.dialects.base import Dialect, ForwardOptions, ReadOptions
from gateway.domain.customers import customer_of
from gateway.domain.modes import EVERYTHING_ENFORCED, Modes
from gateway.domain.pricing import PriceTable, compile_prices
from gateway.domain.reservation import Account
from gateway.domain.token_vectors import TokenVectors
from gateway.domain.usage import DEFAULT_TIER, OUTPUT_UNITS, TOKEN_UNITS, without_tier
from gateway.flow.headers import Forwarding
from gateway.flow.paths import PathTable
from gateway.flow.spread import Spread
from gateway.http.cors import Cors
from gateway.http.interface import Exchange, Upstream


@dataclass(frozen=True, slots=True)
class Policy:
    """The knobs of a preset, as values. Times in ms, sizes in tokens.

    hold_output_tokens:  output held at the start of a stream; None holds the complete bound
    expected_share:      of its answers whose output a stream holds at first, once that is known;
                         None holds `hold_output_tokens`
    least_hold_output_tokens: the least at the end of the credit
    clamp:               lower the output maximum to what the credit affords
    grow_wait_ms:        how long a stream waits for credit that others hold
    extend_at:           share of the held output (0 … 1) at which the hold grows
    disconnect_json, disconnect_stream, undrained, exhausted_stream, missing_usage: see docs/reference/configuration.md;
                         pass: nothing stops a stream, in shadow mode
    bytes_per_token:     for counting where the provider reports nothing
    keep_answers:        of requests with an Idempotency-Key, for their repeats
    """

    hold_output_tokens: int | None
    extend_at: float
    hold_ttl_ms: int
    checkpoint_interval_ms: int
    default_max_output_tokens: int | None
    disconnect_json: Literal["drain", "charge_hold", "charge_input"]
    disconnect_stream: Literal["charge_seen", "drain", "charge_input", "charge_hold"]
    drain_max_ms: int
    exhausted_stream: Literal["finish", "cut", "pass"]
    missing_usage: Literal["counted", "hold"]
    expire_charges: Literal["checkpoint", "hold", "nothing"]
    insufficient_status: Literal[402, 429]
    undrained: Literal["hold", "expected", "input"]
    answer_cost_header: bool
    bytes_per_token: int = 4
    expected_share: float | None = None
    least_hold_output_tokens: int = 64
    clamp: bool = False
    grow_wait_ms: int = 2000
    keep_answers: bool = False
    stream_cost: bool = False
    """The last usage chunk of a stream, if the client asks for one, carries the cost."""
    top_up_url: str | None = None
    """Where customers add credit; `{customer}` in it stands for the customer's id."""


@dataclass(frozen=True, slots=True)
class Model:
    """One priced model.

    upstream:           that serves it; of several, the first
    forwarding:         which header fields the upstream sees, its credential among them
    spread:             its upstreams, where there are several; see `at`
    max_output_tokens:  the most one choice can produce
    context_tokens:     caps the input bound; None when unknown
    hidden_output:      reasons before it shows; on disconnect it drains or charges the hold
    auto_tiers:         service tiers that the provider may choose
    """

    name: str
    upstream: Upstream
    forwarding: Forwarding
    forward: ForwardOptions
    prices: PriceTable
    max_output_tokens: int
    context_tokens: int | None
    hidden_output: bool
    scope_bits: int = 0
    free: bool = False
    """Everything costs 0: nothing is metered."""
    of_route: bool = False
    """A route's own price: no request can name it."""
    auto_tiers: tuple[str, ...] = (DEFAULT_TIER,)
    spread: Spread | None = None
    chosen_tiers: tuple[str, ...] = field(init=False)
    """Tiers that may serve a request which leaves the choice to the provider: those of `auto_tiers` that
    have a price. A customer's own price may have fewer."""

    output_priced: bool = field(init=False)
    """Whether any output costs anything."""
    token_vectors: TokenVectors = field(init=False, repr=False, compare=False)
    other_units: frozenset[str] = field(init=False)
    """Priced units other than tokens, requests and hosted calls: seconds, images, bytes, items."""

    def __post_init__(self) -> None:
        units = frozenset(map(without_tier, self.prices.units))
        object.__setattr__(self, "output_priced", not OUTPUT_CLASSES.isdisjoint(units))
        object.__setattr__(self, "other_units", units - TOKEN_UNITS - {"request", "tool_call"})
        object.__setattr__(self, "token_vectors", TokenVectors(self.prices))
        priced = tuple(tier for tier in self.auto_tiers if tier in self.prices.service_tiers)
        object.__setattr__(self, "chosen_tiers", priced or (DEFAULT_TIER,))

    def at(self, place: int) -> "Model":
        """The model as the upstream at this place of its spread serves it."""
        assert self.spread is not None, "only a model with several upstreams has places"
        target = self.spread.targets[place]
        return replace(
            self, upstream=target.upstream, forwarding=target.forwarding, forward=target.forward
        )


FREE: Final = compile_prices({})
"""The price of 0: no unit has a rate."""

OUTPUT_CLASSES = frozenset(OUTPUT_UNITS)

LocalAnswer = Callable[[Exchange, "Account | None", str], Awaitable[None]]
"""Answers a request itself: (exchange, account, request id). Account is None on public routes."""


@dataclass(frozen=True, slots=True)
class Route:
    """One allowed endpoint; exactly one of local, free or (else) paid.

    local:     answered by the gate itself
    public:    needs no key (health); local routes only
    free:      reserves 0 and charges 0; key, freeze and limits apply
    upstream, forwarding: of a free route whose body names no model
    priced_as: the name that the route's own price goes by; None where requests name a model
    same_path: routes at the same path for other methods
    """

    path: str
    methods: frozenset[str]
    dialect: Dialect
    reading: ReadOptions
    policy: Policy
    local: LocalAnswer | None = None
    public: bool = False
    free: bool = False
    upstream: Upstream | None = None
    forwarding: Forwarding | None = None
    priced_as: str | None = None
    same_path: tuple["Route", ...] = ()

    @property
    def reserves(self) -> bool:
        """Whether its requests are forwarded, and so reserve credit; of a free route 0."""
        return self.local is None


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that a configuration offers. A reload replaces it completely."""

    routes: Mapping[str, Route]
    models: Mapping[str, Model]
    fallback: Dialect
    """Speaks for what no route claims."""
    max_body_bytes: int
    modes: Modes = EVERYTHING_ENFORCED
    speakers: Mapping[str, Dialect] = field(default_factory=dict)
    """API → a dialect that speaks for it where no route does."""
    cors: Cors | None = None
    overrides: Mapping[str, Mapping[str, Model]] = field(default_factory=dict)
    """Customer id → the models that have another price for this customer of the configuration."""
    plan_overrides: Mapping[str, Mapping[str, Model]] = field(default_factory=dict)
    """Plan → the models that have another price for its customers in the ledger."""
    paths: PathTable[Route] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", PathTable(self.routes.items()))

    def speaker(self, exchange: Exchange) -> Dialect:
        """The dialect that a request without a route suggests."""
        return self.speakers.get(suggested_api(exchange), self.fallback)

    def free_model(self, route: Route, name: str) -> Model | None:
        """The model of a free route: a price of 0 at the route's upstream, or at that of the model
        which the request names; None when there is none of this name."""
        if route.upstream is not None and route.forwarding is not None:
            return Model(
                name=name or route.path,
                upstream=route.upstream,
                forwarding=route.forwarding,
                forward=ForwardOptions(""),
                prices=FREE,
                max_output_tokens=0,
                context_tokens=None,
                hidden_output=False,
                free=True,
            )
        model = self.models.get(name)
        return None if model is None else replace(model, prices=FREE, free=True)

    def model_for(self, name: str, account: Account | None) -> Model | None:
        """The model at the account's price; None when there is none of this name.

        account: None for the price of everyone
        """
        model = self.models.get(name)
        if account is None or model is None:
            return model
        own = self.overrides.get(customer_of(account.customer_id)[0])
        if own is not None:
            return own.get(name, model)
        table = account.prices.get(name)
        if table is not None:
            return replace(model, prices=table)
        return self.plan_overrides.get(account.plan or "", self.models).get(name, model)


_GEMINI_VERBS: Final = (":generateContent", ":streamGenerateContent", ":countTokens")


def suggested_api(exchange: Exchange) -> str:
    """The API that a request's path, or a header that only one API's clients send, suggests."""
    path = exchange.path
    if path.startswith("/v1beta/") or path.endswith(_GEMINI_VERBS):
        return "gemini"
    if path.startswith("/v1/messages") or exchange.header("anthropic-version") is not None:
        return "anthropic"
    return "openai"
