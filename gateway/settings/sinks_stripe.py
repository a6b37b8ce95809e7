"""Section of the Stripe sink."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import model_validator

from gateway.exporter.sinks.billing import BILLED_KINDS
from gateway.exporter.sinks.options_stripe import StripeOptions
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    BaseUrl,
    Milliseconds,
    Secret,
    Section,
    Switch,
    Text,
    Whole,
    field,
)
from gateway.settings.sinks_http import BilledKind, TemplateText

_HOUR = 60


class StripeSection(Section):
    """Usage as Stripe meter events, aggregated by customer, meter and hour."""

    key: Secret = field(
        "Secret or restricted API key with the right to write meter events.", "${STRIPE_KEY}"
    )
    meters: Mapping[Text, Text] = field(
        "Unit → event name of its meter. `amount` is the charge in nano-credits.",
        {"input": "llm_input_tokens", "output": "llm_output_tokens"},
    )
    customer: TemplateText = field(
        "The Stripe customer of an event.", "{tags.stripe}", "{tags.stripe_customer_id}"
    )
    kinds: tuple[BilledKind, ...] = field(
        "Events that are sent.", ["settle", "expire"], tuple(sorted(BILLED_KINDS))
    )
    test_keys: Switch = field("Send usage of test keys, too.", True, False)
    stream: Switch = field(
        "Use the meter event stream (live mode only): 100 meter events a call.", True, False
    )
    window_minutes: Annotated[int, Whole(1, _HOUR)] = field(
        "What is aggregated into one meter event; a divisor of 60.", 15, _HOUR
    )
    concurrent: Annotated[int, Whole(1, 64)] = field("Calls at the same time.", 8, 8)
    timeout_ms: Milliseconds = field("For one call.", 10_000, 10_000)
    url: BaseUrl = field("Stripe's API.", "https://api.stripe.com", "https://api.stripe.com")
    stream_url: BaseUrl = field(
        "Stripe's meter event stream.",
        "https://meter-events.stripe.com",
        "https://meter-events.stripe.com",
    )

    @model_validator(mode="after")
    def _checked(self) -> "StripeSection":
        if not self.meters:
            raise Wrong("has no meter", "Name one, such as input: llm_input_tokens.", at="meters")
        if _HOUR % self.window_minutes:
            raise Wrong(
                f"{self.window_minutes} does not divide an hour",
                "Write 5, 10, 15, 20, 30 or 60.",
                at="window_minutes",
            )
        return self

    def compiled(self, _data_dir: Path) -> StripeOptions:
        """Convert to the exporter's form."""
        return StripeOptions(
            key=self.key.get_secret_value(),
            meters=dict(self.meters),
            customer=self.customer,
            kinds=frozenset(self.kinds),
            test_keys=self.test_keys,
            stream=self.stream,
            window_ms=self.window_minutes * 60_000,
            concurrent=self.concurrent,
            timeout_ms=self.timeout_ms,
            url=self.url,
            stream_url=self.stream_url,
        )
