"""What the HTTP sink is configured with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.exporter.sinks.billing import BILLED_KINDS


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """recipe:  name in `http_recipes.RECIPES`, or `custom` with `item` and `wrap`
    key:        API key, sent as the recipe says; headers: more of them; signing_keys: of the HMAC
    event_name, customer: templates (`billing.Template`); `{unit}` in the name sends one item for each unit
    units:      which units are sent one by one; empty: all of them
    kinds:      events that are sent; test_keys: whether those of test keys are, too
    batch_items, max_replay_age_ms: None: the recipe's
    item, wrap: of a custom body: dotted path → template, and the name of the list; "": the list is the body
    """

    url: str
    recipe: str = "cloudevents"
    key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    signing_keys: tuple[bytes, ...] = field(default=(), repr=False)
    source: str = "creditgate"
    event_name: str = "creditgate.usage"
    customer: str = "{customer_id}"
    units: tuple[str, ...] = ()
    kinds: frozenset[str] = BILLED_KINDS
    test_keys: bool = False
    batch_items: int | None = None
    concurrent: int = 4
    timeout_ms: int = 10_000
    max_replay_age_ms: int | None = None
    item: Mapping[str, str] = field(default_factory=dict)
    wrap: str = ""
