"""Section for payments that other systems report by webhook."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from gateway.domain.payments import PaymentTerms, decimals
from gateway.exporter.signing import secret_bytes
from gateway.settings.problems import Wrong
from gateway.settings.scalars import Amount, Secret, Section, field
from gateway.settings.signals import check_signing_secrets

_CURRENCY: Final = re.compile(r"[a-z]{3}")
_PLACE: Final = re.compile(r"external_id|client_reference_id|metadata\.[!-~]{1,64}")
_SOURCE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
STRIPE: Final = "stripe"


def _currency(value: Any) -> str:
    text = str(value).lower()
    if not _CURRENCY.fullmatch(text):
        raise Wrong(f"{text!r} is not a currency", "Write its three letters, such as usd.")
    return text


def _place(value: Any) -> str:
    text = str(value)
    if not _PLACE.fullmatch(text):
        raise Wrong(
            f"{text!r} is no place of a customer's id",
            "Write metadata.NAME, external_id or client_reference_id.",
        )
    return text


def _source(value: Any) -> str:
    text = str(value)
    if not _SOURCE.fullmatch(text) or text == STRIPE:
        raise Wrong(
            f"{text!r} cannot be the name of a source",
            "Use lower-case letters, digits, _ and -, at most 32. Stripe has its own section.",
        )
    return text


Currency = Annotated[str, BeforeValidator(_currency), WithJsonSchema({"type": "string"})]
CustomerPlace = Annotated[str, BeforeValidator(_place), WithJsonSchema({"type": "string"})]
SourceName = Annotated[str, BeforeValidator(_source), WithJsonSchema({"type": "string"})]
TestWallet = Literal["test", "live"]


class StripePaymentsSection(Section):
    """Payments at Stripe, reported to `POST /webhooks/stripe` on the console's port."""

    webhook_secret: Secret = field(
        "Signing secret of the webhook endpoint.", "${STRIPE_WEBHOOK_SECRET}"
    )
    credits_per_unit: Mapping[Currency, Amount] = field(
        "Credits for one unit of each currency that you take. A payment in any other waits until"
        " it has a rate.",
        {"usd": "1", "eur": "1.1"},
    )
    customer_from: tuple[CustomerPlace, ...] = field(
        "Where a payment names the customer, the first that has one: `metadata.NAME`,"
        " `external_id` (the customer whose external id `stripe` is Stripe's customer),"
        " `client_reference_id`. The last one can be chosen by who pays, if you use payment links: a"
        " stranger's disputed payment would freeze the customer.",
        ["metadata.customer_id"],
        ("metadata.customer_id", "external_id"),
    )
    test_payments: TestWallet = field(
        "Wallet that payments of Stripe's test mode go to: that of the customer's test keys, or the"
        " live one.",
        "live",
        "test",
    )

    @model_validator(mode="after")
    def _checked(self) -> "StripePaymentsSection":
        if not self.credits_per_unit:
            raise Wrong("has no rate", 'Write such as {usd: "1"}.', at="credits_per_unit")
        for currency, nano in self.credits_per_unit.items():
            least = 10 ** decimals(currency)
            if nano == 0 or nano % least:
                raise Wrong(
                    f"the rate of {currency} gives no exact number of credits for its smallest coin",
                    f"Use a rate above 0 with at most {9 - decimals(currency)} decimals.",
                    at="credits_per_unit",
                )
        if not self.customer_from:
            raise Wrong("is empty", "Write such as [metadata.customer_id].", at="customer_from")
        return self


class PaymentSourceSection(Section):
    """Another system, which reports payments to `POST /webhooks/payments/NAME` on the console's port."""

    secret: Secret = field(
        "Secret of the signatures (Standard Webhooks): `whsec_` and base64, or any text.",
        "${BILLING_WEBHOOK_SECRET}",
    )
    old_secret: Secret | None = field(
        "The previous secret, accepted as well while the sender changes to the new one.",
        "${BILLING_WEBHOOK_SECRET_OLD}",
        None,
    )

    @model_validator(mode="after")
    def _strong(self) -> "PaymentSourceSection":
        check_signing_secrets(secret=self.secret, old_secret=self.old_secret)
        return self

    def keys(self) -> tuple[bytes, ...]:
        """Keys of valid signatures."""
        secrets = (self.secret, self.old_secret)
        return tuple(secret_bytes(each.get_secret_value()) for each in secrets if each)


class PaymentsSection(Section):
    """Money coming in: payments that other systems report become credit. Needs the console's process
    (`console.enabled`), which serves the webhooks. See docs/how-to/payments.md."""

    stripe: StripePaymentsSection | None = field(
        "Payments at Stripe.",
        {"webhook_secret": "${STRIPE_WEBHOOK_SECRET}", "credits_per_unit": {"usd": "1"}},
        None,
    )
    sources: Mapping[SourceName, PaymentSourceSection] = field(
        "Other systems, by name.",
        {"billing": {"secret": "${BILLING_WEBHOOK_SECRET}"}},
        factory=dict,
    )

    def terms(self, source: str) -> PaymentTerms:
        """How reports of a source become credit; of one that is not configured, without rates."""
        if source == STRIPE and self.stripe is not None:
            stripe = self.stripe
            return PaymentTerms(dict(stripe.credits_per_unit), stripe.test_payments == "live")
        return PaymentTerms({})
