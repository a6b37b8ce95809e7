"""Section for signals: alerts about wallets, and where they are sent."""

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import SecretStr, WithJsonSchema, model_validator

from gateway.domain.signals import MAX_THRESHOLDS, SignalRules, TopUp, Velocity
from gateway.exporter.signals import Webhook
from gateway.exporter.signing import secret_bytes
from gateway.settings.problems import Wrong
from gateway.settings.scalars import (
    DECIMAL_SCHEMA,
    Amount,
    BaseUrl,
    Id,
    Milliseconds,
    Secret,
    Section,
    Switch,
    Text,
    Whole,
    field,
)

DAY_MS: Final = 86_400_000

Days = Annotated[int, Whole(1, 3660)]
Seconds = Annotated[int, Whole(1, 366 * 86_400)]
Factor = Annotated[Amount, WithJsonSchema(DECIMAL_SCHEMA)]
"""A decimal; stored in billionths, like amounts."""


def check_signing_secrets(**secrets: SecretStr | None) -> None:
    """Check the signing secrets of a section, by their fields. Raises Wrong."""
    for name, secret in secrets.items():
        if secret is None:
            continue
        try:
            key = secret_bytes(secret.get_secret_value())
        except ValueError as error:
            raise Wrong(str(error), "Copy the complete secret.", at=name) from None
        if len(key) < 16:
            raise Wrong("is shorter than 16 bytes", "Try `openssl rand -hex 32`.", at=name)


class WebhookSection(Section):
    """Where signals are sent: a POST with a CloudEvents 1.0 body, signed according to Standard
    Webhooks (docs/reference/signals.md), repeated until the receiver answers 2xx."""

    url: BaseUrl = field("URL to POST to.", "https://billing.example.com/creditgate")
    secret: Secret = field(
        "Signing secret: `whsec_` and base64, or any text of 16 characters or more.",
        "${SIGNALS_SECRET}",
    )
    old_secret: Secret | None = field(
        "Additional signing secret during a rotation.", "${OLD_SECRET}", None
    )
    source: Text = field("`source` of the CloudEvents.", "acme-gate", "creditgate")
    timeout_ms: Milliseconds = field("For one attempt.", 10_000, 10_000)
    backoff_max_s: Seconds = field(
        "Longest wait between two attempts; it starts at one second and doubles.",
        3600,
        3600,
    )
    give_up_days: Days = field(
        "How long delivery is attempted; then the signal is dead and kept with its reason.", 3, 3
    )

    @model_validator(mode="after")
    def _strong(self) -> "WebhookSection":
        check_signing_secrets(secret=self.secret, old_secret=self.old_secret)
        return self

    def compiled(self) -> Webhook:
        """Convert to the exporter's form."""
        secrets = (self.secret, self.old_secret)
        return Webhook(
            url=self.url,
            keys=tuple(secret_bytes(each.get_secret_value()) for each in secrets if each),
            source=self.source,
            timeout_ms=self.timeout_ms,
            backoff_max_ms=self.backoff_max_s * 1000,
            give_up_ms=self.give_up_days * DAY_MS,
        )


class TopUpSection(Section):
    """Request more credit from the operator's system (`topup_wanted`); the gate moves no money."""

    threshold_nano: Amount = field(
        "Balance below which credit is requested.", "5.00", alias="threshold"
    )
    amount_nano: Amount = field("Credits to request.", "20.00", alias="amount")
    cooldown_s: Seconds = field(
        "Wait before the next request while the balance stays below the threshold.", 600, 3600
    )
    max_per_period: Annotated[int, Whole(1, 1000)] = field(
        "Maximum number of requests per period.", 10, 5
    )
    period_days: Days = field("Length of a period, from its first request.", 30, 30)

    @model_validator(mode="after")
    def _something(self) -> "TopUpSection":
        if self.amount_nano == 0:
            raise Wrong("is zero", "Remove the top-up.", at="amount")
        return self

    def compiled(self) -> TopUp:
        """Convert to the ledger's form."""
        return TopUp(
            self.threshold_nano,
            self.amount_nano,
            self.cooldown_s * 1000,
            self.max_per_period,
            self.period_days * DAY_MS,
        )


class VelocitySection(Section):
    """Detect unusual spending (`spending_fast`): an hour that costs more than `factor` times the
    median hour of the last week. Learning starts when the rule is set."""

    factor: Factor = field("Multiple of the median hour.", "10", 10_000_000_000)
    floor_nano: Amount = field("An hour below this amount never counts.", "1.00", alias="floor")
    least_hours: Annotated[int, Whole(1, 168)] = field(
        "Hours of history required before anything counts as unusual.", 24, 24
    )
    freeze: Switch = field("Freeze the wallet; `creditgate wallet thaw` unfreezes it.", True, False)

    @model_validator(mode="after")
    def _more_than_usual(self) -> "VelocitySection":
        if not 10**9 <= self.factor <= 10**15:
            raise Wrong("is outside 1 … 1000000", "Write such as 10.", at="factor")
        return self

    def compiled(self) -> Velocity:
        """Convert to the ledger's form."""
        return Velocity(self.factor // 10**6, self.floor_nano, self.least_hours, self.freeze)


class RulesSection(Section):
    """Alerts of a wallet, each sent once per crossing."""

    low_balance: tuple[Amount, ...] = field(
        "Balances in credits; falling below one sends `low_balance`.", ["10.00", "1.00"], ()
    )
    exhausted: Switch = field(
        "Announce when nothing is left to spend, credit limit included.", True, True
    )
    expiring_days: Annotated[int, Whole(0, 366)] = field(
        "How many days before expiry a grant with a remainder is announced; 0 for never. "
        "Allowances are not announced.",
        7,
        0,
    )
    topup: TopUpSection | None = field(
        "Request more credit.", {"threshold": "5.00", "amount": "20.00"}, None
    )
    velocity: VelocitySection | None = field(
        "Detect unusual spending.", {"factor": "10", "floor": "1.00"}, None
    )

    @model_validator(mode="after")
    def _few(self) -> "RulesSection":
        if len(self.low_balance) > MAX_THRESHOLDS:
            raise Wrong(
                f"has more than {MAX_THRESHOLDS} thresholds", "Remove some.", at="low_balance"
            )
        if 0 in self.low_balance:
            raise Wrong("0 is not a threshold", "Use `exhausted` for that.", at="low_balance")
        return self

    def compiled(self) -> SignalRules:
        """Convert to the ledger's form."""
        return SignalRules(
            low_balance_nano=self.low_balance,
            exhausted=self.exhausted,
            expiring_before_ms=self.expiring_days * DAY_MS,
            topup=self.topup.compiled() if self.topup else None,
            velocity=self.velocity.compiled() if self.velocity else None,
        )


class SignalsSection(Section):
    """Alerts about wallets to the operator's systems. Of `customers`, `plans` and `all`, only the
    most specific entry that matches a customer applies. Signals are recorded and shown by
    `creditgate signals` even without a webhook."""

    webhook: WebhookSection | None = field(
        "Where signals are sent.",
        {"url": "https://billing.example.com/creditgate", "secret": "${SIGNALS_SECRET}"},
        None,
    )
    all: RulesSection | None = field(
        "Rules for every customer.", {"low_balance": ["10.00", "1.00"]}, None
    )
    plans: Mapping[Id, RulesSection] = field(
        "Rules for the customers of a plan.", {"starter": {"exhausted": True}}, factory=dict
    )
    customers: Mapping[Id, RulesSection] = field(
        "Rules for single customers.",
        {"acme": {"topup": {"threshold": "5.00", "amount": "20.00"}}},
        factory=dict,
    )

    def rules(self, customer_id: str, plan: str | None) -> SignalRules:
        """Return the rules that apply to this customer's wallet."""
        named = self.customers.get(customer_id) or (self.plans.get(plan) if plan else None)
        section = named or self.all
        return section.compiled() if section else SignalRules()
