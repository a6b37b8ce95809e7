"""What the Stripe sink is configured with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.exporter.sinks.billing import BILLED_KINDS

REPLAY_AGE_MS: Final = 23 * 3_600_000
"""Stripe recognises an identifier for 24 hours; an hour of that is left for clocks and for sending."""


@dataclass(frozen=True, slots=True)
class StripeOptions:
    """key:     secret API key
    meters:     unit (`input`, …, `amount` in nano-credits, `request`) → event name of the meter
    customer:   template of the Stripe customer's id (`billing.Template`)
    stream:     send batches by the meter event stream (v2) instead of one meter event a call (v1)
    window_ms:  what is aggregated: usage of one customer, meter and window is one meter event
    grace_ms:   how long after its end a window is closed where no later event has closed it
    url, stream_url: of the API, and of the stream
    """

    key: str = field(repr=False)
    meters: Mapping[str, str]
    customer: str = "{tags.stripe_customer_id}"
    kinds: frozenset[str] = BILLED_KINDS
    test_keys: bool = False
    stream: bool = False
    window_ms: int = 3_600_000
    grace_ms: int = 60_000
    concurrent: int = 8
    timeout_ms: int = 10_000
    max_replay_age_ms: int | None = REPLAY_AGE_MS
    url: str = "https://api.stripe.com"
    stream_url: str = "https://meter-events.stripe.com"
