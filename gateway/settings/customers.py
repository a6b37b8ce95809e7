"""Sections for billed parties: plans, customers, their keys, grants and limits."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import WithJsonSchema, model_validator

from gateway.domain.customers import Mode
from gateway.domain.limits import Limit, Measure, Scope, Window
from gateway.domain.money import MAX_AMOUNT_NANO, MoneyError, parse_amount
from gateway.settings.prices import PricesSection
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    DECIMAL_SCHEMA,
    Amount,
    Id,
    ModelName,
    MomentMs,
    Section,
    Sha256,
    Switch,
    Text,
    Whole,
    field,
)

MAX_CEILING_COUNT: Final = MAX_AMOUNT_NANO
"""Counts and amounts in counters have the same bound."""
EXAMPLE_SHA256: Final = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"

Every = Literal["day", "week", "month"]
BillingDay = Annotated[int, Whole(1, 31)]
Category = Literal["paid", "promotional", "allowance", "adjustment"]


class GrantSection(Section):
    """Credit that a customer starts with, granted exactly once per customer and name. Changed
    terms under the same name apply to customers who have not received the grant; those who
    have it keep theirs."""

    name: Id = field("Permanent name: makes the grant happen once. Never reuse one.", "welcome")
    amount_nano: Amount = field("Credits.", "10.00", alias="amount")
    category: Category = field("What kind of credit it is.", "promotional", "promotional")
    priority: Annotated[int, Whole(0, 255)] = field("Lower is spent first.", 10, 100)
    effective_at_ms: MomentMs | None = field(
        "Not spendable before this time.", "2027-01-01T00:00:00Z", None, alias="effective_at"
    )
    expires_at_ms: MomentMs | None = field(
        "When the remainder expires.", "2027-12-31T00:00:00Z", None, alias="expires_at"
    )
    groups: tuple[Id, ...] = field(
        "Model groups that it pays for; every model if absent.", ["premium"], ()
    )

    @model_validator(mode="after")
    def _sound(self) -> "GrantSection":
        if self.amount_nano == 0:
            raise Wrong("is zero", "Remove the grant.", at="amount")
        starts, ends = self.effective_at_ms, self.expires_at_ms
        if starts is not None and ends is not None and ends <= starts:
            raise Wrong("must be after `effective_at`", "Correct one of them.", at="expires_at")
        return self


class RecurringGrantSection(Section):
    """Credit granted every period: an allowance. A period opens with the customer's first request
    in it. The remainder of the previous period expires, except for `rollover_max`."""

    name: Id = field("Permanent name: makes it happen once per period. Never reuse one.", "monthly")
    amount_nano: Amount = field(
        "Credits per period. 0 ends the allowance; removing the entry does not.",
        "20.00",
        alias="amount",
    )
    every: Every = field("Length of a period; a month starts on the billing day.", "month", "month")
    anchor_day: BillingDay | None = field(
        "Day on which its months start, instead of the billing day.", 15, None
    )
    rollover_max_nano: Amount = field(
        "Largest remainder that is carried over into the next period, in credits.",
        "5.00",
        0,
        alias="rollover_max",
    )
    category: Category = field("What kind of credit it is.", "allowance", "allowance")
    priority: Annotated[int, Whole(0, 255)] = field("Lower is spent first.", 10, 50)
    groups: tuple[Id, ...] = field(
        "Model groups that it pays for; every model if absent.", ["premium"], ()
    )

    @model_validator(mode="after")
    def _sound(self) -> "RecurringGrantSection":
        if self.every != "month" and self.anchor_day is not None:
            raise Wrong("applies only to monthly periods", "Remove it.", at="anchor_day")
        return self


_CEILING: Final = "Credits for `spend`, otherwise an integer."
_WINDOW: Final = "Length of the window; not with `concurrent`."
_ROLLING: Final = (
    "true: no period of that length, wherever it starts, exceeds the ceiling (a month is 30 "
    "days). false: the count restarts with each calendar minute, hour, day, week or month (UTC)."
)


def _check_limit(section: "LimitSection | OwnLimitSection") -> None:
    """Check that the fields of a limit fit together. Raises Wrong."""
    if section.measure == "concurrent" and section.window not in (None, "total"):
        raise Wrong("`concurrent` has no window", "Remove `window`.", at="window")
    if section.measure != "concurrent" and section.window is None:
        raise Wrong("is missing", "Write minute, hour, day, week, month or total.", at="window")
    if section.rolling and section.window in (None, "total"):
        raise Wrong("a limit without a window cannot roll", "Remove it.", at="rolling")
    _limit(section, "customer")


def _limit(
    section: "LimitSection | OwnLimitSection", scope: Scope, model: str | None = None
) -> Limit:
    """Build the limit. Raises Wrong if the ceiling does not fit the measure."""
    try:
        if section.measure == "spend":
            ceiling = parse_amount(section.ceiling)
        else:
            ceiling = Whole(0, MAX_CEILING_COUNT)(section.ceiling)
    except MoneyError as error:
        hint = 'Write credits, such as "5.00".'
        raise Wrong(str(error), hint, at="ceiling") from error
    except Wrong as wrong:
        raise Wrong(wrong.message, wrong.hint, at="ceiling") from wrong
    rolling = section.rolling
    if rolling is None:
        rolling = section.window == "minute" and section.measure in ("requests", "tokens")
    return Limit(scope, section.measure, section.window or "total", ceiling, rolling, model)


class OwnLimitSection(Section):
    """A ceiling on what this project or key may do in a window, or concurrently. It replaces a
    limit with the same measure and window that applies to all projects or keys."""

    measure: Measure = field("What is counted.", "spend")
    window: Window | None = field(_WINDOW, "day", None)
    rolling: Switch | None = field(_ROLLING, False, None)
    ceiling: Annotated[Text, WithJsonSchema(DECIMAL_SCHEMA)] = field(_CEILING, "5.00")

    @model_validator(mode="after")
    def _sound(self) -> "OwnLimitSection":
        _check_limit(self)
        return self

    def compiled(self, scope: Scope) -> Limit:
        """Build the limit of a project or a key."""
        return _limit(self, scope)


class LimitSection(Section):
    """A ceiling on what a scope may do in a window, or concurrently. Requests and tokens per
    minute roll unless `rolling` is false; everything else counts by the calendar."""

    scope: Scope = field(
        "What is counted separately: each customer, project or key, or each of the named models "
        "within a customer.",
        "key",
        "customer",
    )
    model: ModelName | None = field("With the scope `model`: the model.", "gpt-4.1", None)
    models: tuple[ModelName, ...] = field(
        "With the scope `model`: the models, each counted separately.",
        ["gpt-4.1", "gpt-4.1-mini"],
        (),
    )
    measure: Measure = field("What is counted.", "spend")
    window: Window | None = field(_WINDOW, "day", None)
    rolling: Switch | None = field(_ROLLING, False, None)
    ceiling: Annotated[Text, WithJsonSchema(DECIMAL_SCHEMA)] = field(_CEILING, "5.00")

    @model_validator(mode="after")
    def _sound(self) -> "LimitSection":
        if self.model is not None and self.models:
            raise Wrong("is set together with `models`", "Remove one of them.", at="model")
        if self.scope == "model" and not self.named_models:
            raise Wrong("is missing", "Name the models that it limits.", at="models")
        if self.scope != "model" and self.named_models:
            hint = "Write `scope: model`, or remove the models."
            at = "models" if self.models else "model"
            raise Wrong(f"a limit with the scope `{self.scope}` counts every model", hint, at=at)
        _check_limit(self)
        return self

    @property
    def named_models(self) -> tuple[str, ...]:
        """Return the models that it limits."""
        return self.models if self.model is None else (self.model,)

    def compiled(self) -> tuple[Limit, ...]:
        """Build the limits: one, or one per model."""
        if self.scope == "model":
            return tuple(_limit(self, "model", model) for model in self.named_models)
        return (_limit(self, self.scope),)


class ProjectSection(Section):
    """Settings of one project of a customer."""

    limits: tuple[OwnLimitSection, ...] = field(
        "Its limits.", [{"measure": "spend", "window": "month", "ceiling": "500.00"}], ()
    )


class PlanSection(Section):
    """Settings shared by several customers."""

    grants: tuple[GrantSection, ...] = field(
        "Starting grants of each customer.", [{"name": "welcome", "amount": "10.00"}], ()
    )
    recurring_grants: tuple[RecurringGrantSection, ...] = field(
        "Allowances of each customer, granted every period.",
        [{"name": "monthly", "amount": "20.00", "every": "month"}],
        (),
    )
    billing_day: BillingDay = field(
        "Day of the month on which monthly periods of allowances and tiers start (UTC); the last "
        "day in shorter months.",
        1,
        1,
    )
    fee_nano: Amount = field(
        "Recurring fee per month, shown on statements. It is billed in addition to usage: it takes "
        "no credit from the wallet.",
        "49.00",
        0,
        alias="fee",
    )
    fee_unit: Text = field("What the fee is stated in.", "USD", "credit")
    prices: Mapping[ModelName, PricesSection] = field(
        "Prices that replace those of the models, each complete.",
        {"gpt-4.1": {"input": "2.50", "output": "10.00"}},
        factory=dict,
    )
    credit_limit_nano: Amount = field(
        "How far below zero a wallet may go, in credits.", "0", 0, alias="credit_limit"
    )
    limits: tuple[LimitSection, ...] = field(
        "Limits.", [{"measure": "requests", "window": "minute", "ceiling": 60}], ()
    )
    models: tuple[Text, ...] | None = field(
        "Models it may use; all if absent.", ["gpt-4.1-mini"], None
    )


class KeySection(Section):
    """One API key of a customer; only its hash is stored."""

    id: Id | None = field(
        "Id of the key in events and limits; derived from the hash if absent.", "k_build", None
    )
    sha256: Sha256 = field(
        "SHA-256 of the key in hex; HMAC-SHA-256 if `auth.key_pepper` is set.",
        EXAMPLE_SHA256,
    )
    project: Id | None = field("Project of the key.", "website", None)
    models: tuple[Text, ...] | None = field(
        "Restricts the models of the customer.", ["gpt-4.1-mini"], None
    )
    limits: tuple[OwnLimitSection, ...] = field(
        "Its limits.", [{"measure": "spend", "window": "day", "ceiling": "5.00"}], ()
    )
    tags: Mapping[Id, Text] = field("Tags on its events.", {"team": "blue"}, factory=dict)

    @property
    def key_id(self) -> str:
        """Return its id, or one derived from the hash."""
        return self.id or f"k_{self.sha256[:16]}"


class CustomerSection(Section):
    """One billed party: a plan, and the settings that differ from it."""

    plan: Text | None = field("Its plan.", "starter", None)
    credit_limit_nano: Amount | None = field(
        "Replaces the plan's.", "5.00", None, alias="credit_limit"
    )
    grants: tuple[GrantSection, ...] = field(
        "Starting grants in addition to the plan's.", [{"name": "pilot", "amount": "100.00"}], ()
    )
    recurring_grants: tuple[RecurringGrantSection, ...] = field(
        "Allowances in addition to the plan's; one with the same name replaces it.",
        [{"name": "monthly", "amount": "50.00"}],
        (),
    )
    billing_day: BillingDay | None = field("Replaces the plan's.", 15, None)
    prices: Mapping[ModelName, PricesSection] = field(
        "Prices that replace those of the plan and the models, each complete.",
        {"gpt-4.1": {"markup": "1.2"}},
        factory=dict,
    )
    limits: tuple[LimitSection, ...] = field(
        "Limits in addition to the plan's; one with the same scope (model), measure and window "
        "replaces it.",
        [{"measure": "spend", "window": "day", "ceiling": "20.00"}],
        (),
    )
    projects: Mapping[Id, ProjectSection] = field(
        "Settings of single projects, by name.",
        {"website": {"limits": [{"measure": "spend", "window": "month", "ceiling": "500.00"}]}},
        factory=dict,
    )
    models: tuple[Text, ...] | None = field("Replaces the plan's.", ["gpt-4.1"], None)
    keys: tuple[KeySection, ...] = field(
        "Its API keys.",
        [{"sha256": EXAMPLE_SHA256}],
        (),
    )
    key_files: tuple[Text, ...] = field(
        "Files with more keys, one per line: SHA256 [ID [PROJECT]]; # starts a comment.",
        ["keys/acme.txt"],
        (),
    )
    livemode: Switch = field("false marks its events as test events.", False, True)
    mode: Mode | None = field("Replaces the general `mode`.", "shadow", None)
    tags: Mapping[Id, Text] = field("Tags on its events.", {"region": "eu"}, factory=dict)
