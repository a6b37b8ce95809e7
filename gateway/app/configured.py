"""What operations need of the configuration: `operations.backend.Configured` over settings."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from gateway.domain.customers import CustomerRecord
from gateway.domain.modes import Modes
from gateway.domain.pricebook import Draft, Price
from gateway.domain.reservation import Account, Key, shard_of
from gateway.flow.credentials import key_digest
from gateway.flow.customers import Customer, account_of, customer_of_record
from gateway.operations.backend import ConfiguredKey, CustomerRef, KeyAlgorithm, Subscription
from gateway.operations.wallet_terms import WalletTerms
from gateway.settings import Settings
from gateway.settings.compiling import compile_customers, compile_keys, compile_modes, compile_plans
from gateway.settings.prices import PricesSection
from gateway.settings.wallet_terms import configured_terms, record_terms


class ConfiguredBySettings:
    """`operations.backend.Configured` over settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def customer_ids(self) -> Collection[str]:
        """Every configured customer."""
        return self._settings.customers.keys()

    @property
    def plans(self) -> Collection[str]:
        """Names of the plans."""
        return self._settings.plans.keys()

    @property
    def models(self) -> Collection[str]:
        """Names of the models, and of the routes that have prices."""
        return self._settings.priced().keys()

    @property
    def model_groups(self) -> Mapping[str, int]:
        """Model groups by name, with their numbers."""
        return self._settings.model_groups

    def api_keys(self) -> Sequence[ConfiguredKey]:
        """Every configured API key."""
        return [
            ConfiguredKey(key.key_id, customer_id, key.project, key.sha256)
            for customer_id, key in self._settings.api_keys()
        ]

    def hash_key(self, secret: str) -> str | None:
        """The hash under which gates look a key up; None where API keys are disabled."""
        if not self._settings.auth.keys:
            return None
        return key_digest(self._settings.pepper())(secret)

    @property
    def key_algorithm(self) -> KeyAlgorithm | None:
        """How gates hash keys; None where API keys are disabled."""
        if not self._settings.auth.keys:
            return None
        return "hmac-sha256" if self._settings.pepper() else "sha256"

    def customer(self, customer_id: str) -> CustomerRecord | None:
        """A configured customer, as if it had a record; None for one that is not configured."""
        settings = self._settings
        customer = settings.customers.get(customer_id)
        if customer is None:
            return None
        return CustomerRecord(
            customer_id,
            0,
            customer.plan,
            tags=dict(customer.tags),
            credit_limit_nano=customer.credit_limit_nano,
            billing_day=customer.billing_day,
            models=None if customer.models is None else frozenset(customer.models),
            limits=tuple(limit for section in customer.limits for limit in section.compiled()),
            projects=settings.project_limits(customer_id),
            prices={
                name: self._price(name, section).table().price_version
                for name, section in customer.prices.items()
            },
        )

    def terms(self, customer: CustomerRef) -> WalletTerms:
        """What a customer's wallet is given. Raises KeyError if its plan is not configured."""
        if isinstance(customer, CustomerRecord):
            return record_terms(self._settings, customer)
        return configured_terms(self._settings, customer)

    def own_price(self, model: str, price: Mapping[str, Any]) -> Price:
        """A price as the configuration takes it. Raises ValueError."""
        if model not in self._settings.priced():
            raise ValueError(f"there is no model {model}")
        try:
            return self._price(model, PricesSection.model_validate(price))
        except ValidationError as invalid:
            first = invalid.errors()[0]
            at = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
            said = first.get("ctx", {}).get("error", first["msg"])
            raise ValueError(f"the price of {model}{at and f', {at}'}: {said}") from invalid

    def recurring_grants(self, customer: CustomerRef) -> Sequence[str]:
        """Names of a customer's recurring grants."""
        if isinstance(customer, str) and customer not in self._settings.customers:
            return ()
        return [allowance.name for allowance in self.terms(customer).allowances]

    def billing_day(self, customer_id: str) -> int | None:
        """The day on which a customer's months begin; None for one that is not configured."""
        if customer_id not in self._settings.customers:
            return None
        return self._settings.billing_day(customer_id)

    def subscription(self, customer: CustomerRef) -> Subscription | None:
        """The fee of a customer's plan; None where there is none."""
        known = self._settings.customers.get(customer) if isinstance(customer, str) else customer
        if known is None or known.plan is None:
            return None
        plan = self._settings.plans.get(known.plan)
        if plan is None or not plan.fee_nano:
            return None
        return Subscription(known.plan, plan.fee_nano, plan.fee_unit)

    def limited_accounts(self, customer: CustomerRef, stored: Sequence[Key]) -> Sequence[Account]:
        """Accounts that together have every limit of a customer; none for one that is unknown."""
        known, keys = self._compiled(customer), list(stored)
        if known is None:
            return ()
        if isinstance(customer, str):
            configured = compile_keys(self._settings).values()
            keys = [*(key for key in configured if key.customer_id == customer), *stored]
        everyone = [limit for limit in known.limits if limit.scope in ("customer", "model")]
        return [
            Account(known.customer_id, "", known.shard, 0, limits=tuple(everyone)),
            *(account_of(known, key, 0) for key in keys if not key.test),
        ]

    def _compiled(self, customer: CustomerRef) -> Customer | None:
        if isinstance(customer, str):
            return compile_customers(self._settings).get(customer)
        plan = compile_plans(self._settings).get(customer.plan or "")
        if plan is None:
            return None
        shard = shard_of(customer.customer_id, self._settings.redis.shards)
        return customer_of_record(customer, plan, shard, {})

    def _price(self, name: str, section: PricesSection) -> Price:
        return self._settings.priced()[name].price(name, section)

    @property
    def modes(self) -> Modes:
        """The configured modes."""
        return compile_modes(self._settings)

    @property
    def required_sink(self) -> str:
        """The name of the required store."""
        return self._settings.export.required

    @property
    def optional_sinks(self) -> Sequence[str]:
        """The names of the other sinks."""
        return list(self._settings.optional_sinks())

    @property
    def max_backlog_events(self) -> int:
        """Undelivered events in one shard above which requests are refused."""
        return self._settings.export.max_backlog_events

    def price_draft(self) -> Draft:
        """The configuration's prices."""
        return self._settings.price_draft()
