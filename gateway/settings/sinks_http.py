"""Section of the HTTP sink."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from gateway.exporter.signing import secret_bytes
from gateway.exporter.sinks.billing import BILLED_KINDS, Template
from gateway.exporter.sinks.options_http import HttpOptions
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    BaseUrl,
    HeaderName,
    Milliseconds,
    Secret,
    Section,
    Switch,
    Text,
    Whole,
    field,
)
from gateway.settings.signals import check_signing_secrets

BilledKind = Literal["settle", "expire", "settle_late"]
Hours = Annotated[int, Whole(1, 24 * 3660)]


def _template(value: Any) -> str:
    text = str(value)
    try:
        Template(text)
    except ValueError as error:
        raise Wrong(
            f"{text!r}: {error}",
            "Fields are {customer_id}, {model}, {unit}, {tags.NAME}, {usage.UNIT}, ….",
        ) from error
    return text


TemplateText = Annotated[Text, BeforeValidator(_template)]
"""Text with fields of the event in braces."""


class HttpSection(Section):
    """Usage over HTTP to a billing system or webhook, by a recipe."""

    url: BaseUrl = field("Base URL; the recipe adds its path.", "https://openmeter.example.com")
    recipe: Literal[
        "cloudevents", "openmeter", "lago", "flexprice", "orb", "metronome", "custom"
    ] = field("Form of the calls.", "openmeter", "cloudevents")
    key: Secret | None = field(
        "API key, sent in the header that the recipe names.", "${OPENMETER_KEY}", None
    )
    headers: Mapping[HeaderName, Secret] = field(
        "Additional headers.", {"x-tenant": "acme"}, factory=dict
    )
    secret: Secret | None = field(
        "Signing secret (Standard Webhooks): `whsec_` and base64, or any text of 16 characters or"
        " more. Without one, calls are not signed.",
        "${HOOK_SECRET}",
        None,
    )
    old_secret: Secret | None = field(
        "Additional signing secret during a rotation.", "${OLD_SECRET}", None
    )
    source: Text = field("Which gate this is, for receivers that ask.", "acme-gate", "creditgate")
    event_name: TemplateText = field(
        "Name of the event, or code of the metric. With `{unit}` in it, each unit of an event is"
        " sent as an item of its own.",
        "llm_{unit}",
        "creditgate.usage",
    )
    customer: TemplateText = field(
        "The customer or subscription as the receiver knows it.",
        "{tags.subscription}",
        "{customer_id}",
    )
    units: tuple[Text, ...] = field(
        "Send only these units, each as an item of its own; `amount` is the charge.",
        ["input", "output"],
        (),
    )
    kinds: tuple[BilledKind, ...] = field(
        "Events that are sent.", ["settle", "expire"], tuple(sorted(BILLED_KINDS))
    )
    test_keys: Switch = field("Send usage of test keys, too.", True, False)
    batch_items: Annotated[int, Whole(1, 1000)] | None = field(
        "Most items in one call, below the receiver's limit.", 50, None
    )
    concurrent: Annotated[int, Whole(1, 64)] = field("Calls at the same time.", 4, 4)
    timeout_ms: Milliseconds = field("For one call.", 10_000, 10_000)
    max_replay_age_hours: Hours | None = field(
        "Older events become dead letters, because the receiver might not recognise a repeat."
        " Default: the recipe's.",
        24,
        None,
    )
    item: Mapping[Text, TemplateText] = field(
        "Of `recipe: custom`: one item, as dotted path and template.",
        {"id": "{event_id}", "data.tokens": "{usage.input}"},
        factory=dict,
    )
    wrap: Text = field(
        "Of `recipe: custom`: the field that holds the list of items; empty: the list is the body.",
        "events",
        "",
    )

    @model_validator(mode="after")
    def _checked(self) -> "HttpSection":
        if (self.recipe == "custom") != bool(self.item):
            raise Wrong(
                "`item` and `recipe: custom` go together", "Write both, or neither.", at="item"
            )
        check_signing_secrets(secret=self.secret, old_secret=self.old_secret)
        return self

    def compiled(self, _data_dir: Path) -> HttpOptions:
        """Convert to the exporter's form."""
        hours = self.max_replay_age_hours
        secrets = (self.secret, self.old_secret)
        return HttpOptions(
            url=self.url,
            recipe=self.recipe,
            key=self.key.get_secret_value() if self.key else "",
            headers={name: value.get_secret_value() for name, value in self.headers.items()},
            signing_keys=tuple(secret_bytes(each.get_secret_value()) for each in secrets if each),
            source=self.source,
            event_name=self.event_name,
            customer=self.customer,
            units=self.units,
            kinds=frozenset(self.kinds),
            test_keys=self.test_keys,
            batch_items=self.batch_items,
            concurrent=self.concurrent,
            timeout_ms=self.timeout_ms,
            max_replay_age_ms=None if hours is None else hours * 3_600_000,
            item=dict(self.item),
            wrap=self.wrap,
        )
