"""The configuration as one frozen value, and what is compiled from it.

Components get values, never this object: `app` takes them from here. It can be pickled, so that
the supervisor can send it to its processes; nothing compiled is stored in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import PrivateAttr

from gateway.domain.customers import Mode
from gateway.domain.limits import Limit, replace_limits
from gateway.domain.pricebook import Book, Customer, Draft, Price
from gateway.exporter.sinks.options import SinkOptions
from gateway.flow.catalog import Policy
from gateway.settings.catalogue import GroupBit, ModelSection, Priced, RouteSection
from gateway.settings.console import ConsoleSection
from gateway.settings.customers import (
    CustomerSection,
    GrantSection,
    KeySection,
    PlanSection,
    RecurringGrantSection,
)
from gateway.settings.default_routes import default_routes
from gateway.settings.export import ExportSection
from gateway.settings.key_holders import KeyHoldersSection
from gateway.settings.payments import PaymentsSection
from gateway.settings.policy import PRESETS, Knobs, PolicySection
from gateway.settings.prices import PricesSection
from gateway.settings.redis import Redis, RedisSection
from gateway.settings.scalars import Id, ModelName, Section, field
from gateway.settings.servers import (
    AdminSection,
    AnswersSection,
    AuthSection,
    CorsSection,
    ListenSection,
    PriceBookSection,
)
from gateway.settings.signals import SignalsSection
from gateway.settings.tracing import TracingSection
from gateway.settings.upstreams import UpstreamSection


class Settings(Section):
    """One configuration file; every mistake in it is reported at once."""

    listen: ListenSection = field(
        "The address that callers reach.", {"port": 8080}, factory=ListenSection
    )
    cors: CorsSection = field(
        "Web pages that may call the gate.",
        {"origins": ["https://app.example.com"]},
        factory=CorsSection,
    )
    admin: AdminSection = field("The admin port.", {"port": 8081}, factory=AdminSection)
    console: ConsoleSection = field(
        "The console and the admin API.", {"port": 8082}, factory=ConsoleSection
    )
    payments: PaymentsSection = field(
        "Payments that become credit.",
        {
            "stripe": {
                "webhook_secret": "${STRIPE_WEBHOOK_SECRET}",
                "credits_per_unit": {"usd": "1"},
            }
        },
        factory=PaymentsSection,
    )
    data_dir: Path = field(
        "The gate's folder: embedded ledger, embedded store, journals, admin token. Relative to "
        "the working directory.",
        "/var/lib/creditgate",
        Path("data"),
    )
    redis: Redis = field("The ledger's server.", "redis://127.0.0.1:6379/0", factory=RedisSection)
    export: ExportSection = field(
        "Delivery of usage events.", {"required": "events"}, factory=ExportSection
    )
    answers: AnswersSection = field(
        "Recorded responses for repeats with an `Idempotency-Key`.",
        {"max_bytes": 268_435_456},
        factory=AnswersSection,
    )
    upstreams: Mapping[Id, UpstreamSection] = field(
        "Providers and inference servers, by name.",
        {"openai": {"base_url": "https://api.openai.com"}},
    )
    model_groups: Mapping[Id, GroupBit] = field(
        "Groups of models, for grants that pay only for some. Each has a permanent number from 1 "
        "to 32, which is stored in the grants: never reuse one.",
        {"premium": 1},
        factory=dict,
    )
    models: Mapping[ModelName, ModelSection] = field(
        "Models that callers may request.",
        {
            "gpt-4.1": {
                "upstream": "openai",
                "max_output_tokens": 32768,
                "prices": {"input": "3.00", "output": "15.00"},
            }
        },
        factory=dict,
    )
    prices: PriceBookSection = field(
        "How changed prices take effect.", {"auto_apply": True}, factory=PriceBookSection
    )
    routes: Mapping[Id, RouteSection] = field(
        "Allowed endpoints by name; replaces the default routes.",
        {"chat": {"path": "/v1/chat/completions", "dialect": "openai_chat"}},
        factory=default_routes,
    )
    plans: Mapping[Id, PlanSection] = field(
        "Settings shared by several customers, by name.",
        {"starter": {"grants": [{"name": "welcome", "amount": "10.00"}]}},
        factory=dict,
    )
    customers: Mapping[Id, CustomerSection] = field(
        "Billed parties, by id.", {"acme": {"plan": "starter"}}, factory=dict
    )
    auth: AuthSection = field("How callers are authenticated.", {"keys": True}, factory=AuthSection)
    key_holders: KeyHoldersSection = field(
        "What customers see of their own usage.", {"enabled": True}, factory=KeyHoldersSection
    )
    tracing: TracingSection | None = field(
        "OpenTelemetry traces; none if absent.",
        {"endpoint": "http://127.0.0.1:4318/v1/traces"},
        None,
    )
    signals: SignalsSection = field(
        "Alerts about wallets, and where they are sent.",
        {"all": {"low_balance": ["10.00"]}},
        factory=SignalsSection,
    )
    policy: PolicySection = field(
        "Policy for edge cases.", {"preset": "balanced"}, factory=PolicySection
    )

    mode: Mode = field(
        "Whether requests that cannot be paid are refused. bypass: forward without asking the "
        "ledger. shadow: decide and charge shadow wallets, and forward in any case. enforce: "
        "refuse. `creditgate mode set` replaces it while the gate runs.",
        "shadow",
        "enforce",
    )

    _digest: str = PrivateAttr(default="")
    _files: tuple[Path, ...] = PrivateAttr(default=())

    @property
    def digest(self) -> str:
        """Digest of the configuration's content, in whatever file it is written. Comments, order
        and layout do not count."""
        return self._digest

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that were read, to be watched for changes."""
        return self._files

    def pepper(self) -> bytes:
        """Key for hashing API keys; empty for plain SHA-256."""
        pepper = self.auth.key_pepper
        return pepper.get_secret_value().encode() if pepper else b""

    def required_store(self) -> SinkOptions:
        """Return the options of the required store."""
        return self.export.required_store(self.data_dir)

    def optional_sinks(self) -> dict[str, SinkOptions]:
        """Return the options of the other sinks, by name."""
        return self.export.optional_sinks(self.data_dir)

    def priced(self) -> dict[str, Priced]:
        """Everything that has a price, by name: models, and routes with prices."""
        routes = {name: route for name, route in self.routes.items() if route.prices is not None}
        return {**routes, **self.models}

    def flow_policy(self, route: RouteSection | None = None) -> Policy:
        """Return the policy of a route, or the general one, as the flow takes it."""
        holders = self.key_holders
        return replace(
            self.knobs(route).flow(),
            stream_cost=holders.enabled and holders.stream_cost,
            top_up_url=holders.top_up_url,
        )

    def knobs(self, route: RouteSection | None = None) -> Knobs:
        """Return the general policy, or that of one route."""
        general = self.policy.resolve(PRESETS["balanced"])
        return route.policy.resolve(general) if route else general

    def scope_bits(self, groups: tuple[str, ...]) -> int:
        """Return the groups as bits, as grants and models store them; 0 for none."""
        return sum(1 << (self.model_groups[group] - 1) for group in set(groups))

    def plan_of(self, customer: CustomerSection) -> PlanSection:
        """Return the customer's plan, or an empty one."""
        return self.plans[customer.plan] if customer.plan else PlanSection()

    def credit_limit_nano(self, customer_id: str) -> int:
        """Return how far below zero the customer's wallet may go."""
        customer = self.customers[customer_id]
        own = customer.credit_limit_nano
        return self.plan_of(customer).credit_limit_nano if own is None else own

    def limits(self, customer_id: str) -> tuple[Limit, ...]:
        """Return the customer's limits: the plan's, replaced or extended by the customer's."""
        customer = self.customers[customer_id]
        plans, own = (
            [limit for section in sections for limit in section.compiled()]
            for sections in (self.plan_of(customer).limits, customer.limits)
        )
        return replace_limits(plans, own)

    def project_limits(self, customer_id: str) -> dict[str, tuple[Limit, ...]]:
        """Return the settings of single projects, by project."""
        projects = self.customers[customer_id].projects
        return {
            name: tuple(section.compiled("project") for section in project.limits)
            for name, project in projects.items()
        }

    def models_of(self, customer_id: str) -> frozenset[str] | None:
        """Return the models that the customer may use; None means all."""
        customer = self.customers[customer_id]
        named = self.plan_of(customer).models if customer.models is None else customer.models
        return None if named is None else frozenset(named)

    def starting_grants(self, customer_id: str) -> tuple[tuple[str, GrantSection], ...]:
        """Return the customer's starting grants, each with the operation id that makes it happen
        once."""
        customer = self.customers[customer_id]
        grants = (*self.plan_of(customer).grants, *customer.grants)
        return tuple((f"start:{customer_id}:{grant.name}", grant) for grant in grants)

    def recurring_grants(self, customer_id: str) -> tuple[RecurringGrantSection, ...]:
        """Return the customer's allowances: the plan's, replaced or extended by the customer's."""
        customer = self.customers[customer_id]
        sections = (*self.plan_of(customer).recurring_grants, *customer.recurring_grants)
        return tuple({each.name: each for each in sections}.values())

    def billing_day(self, customer_id: str) -> int:
        """Return the day of the month on which the customer's monthly periods start."""
        customer = self.customers[customer_id]
        return customer.billing_day or self.plan_of(customer).billing_day

    def price_draft(self) -> Draft:
        """Return the configuration's prices for the price book."""
        prices: dict[str, Price] = {}
        priced = self.priced()

        def kept(price: Price) -> str:
            version = price.table().price_version
            prices[version] = price
            return version

        def overrides(sections: Mapping[str, PricesSection]) -> dict[str, str]:
            return {
                name: kept(priced[name].price(name, section)) for name, section in sections.items()
            }

        plans = {name: overrides(plan.prices) for name, plan in self.plans.items() if plan.prices}
        book = Book(
            models={name: kept(each.price(name)) for name, each in priced.items()},
            plans=plans,
            customers={
                name: Customer(each.plan if each.plan in plans else None, overrides(each.prices))
                for name, each in self.customers.items()
                if each.prices or each.plan in plans
            },
        )
        return Draft(book, frozenset(self.plans), frozenset(self.customers), prices)

    def api_keys(self) -> Iterator[tuple[str, KeySection]]:
        """Yield every key with its customer's id."""
        for customer_id, customer in self.customers.items():
            for key in customer.keys:
                yield customer_id, key
