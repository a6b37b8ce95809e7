"""Check whether the parts of a configuration fit together.

Each check yields findings; `run_checks` runs them all. Names are looked up among all that the
document defines, so that a mistake inside an upstream does not also make it unknown.
"""

import difflib
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.dialects.any_api.quantities import ABSURD_FACTOR, Quantity
from gateway.dialects.gemini.generate import Gemini, GeminiCountTokens
from gateway.domain.limits import Limit
from gateway.domain.money import MAX_AMOUNT_NANO, PICO_PER_NANO
from gateway.domain.pricebook import Price
from gateway.domain.suggestions import suggest
from gateway.domain.usage import DEFAULT_TIER, TOKEN_UNITS
from gateway.exporter.sinks.registry import can_schedule
from gateway.flow.paths import Template
from gateway.settings.catalogue import Priced, RouteSection
from gateway.settings.customers import (
    CustomerSection,
    GrantSection,
    LimitSection,
    OwnLimitSection,
    RecurringGrantSection,
)
from gateway.settings.prices import PER_UNIT_FIELDS, PricesSection
from gateway.settings.problems import Finding, Path, Wrong
from gateway.settings.root import Settings
from gateway.settings.servers import is_loopback

MAX_LIMITS: Final = 100
"""On a customer and its models. A record has room for twice as many counters: those of former limits
stay for a while."""
OWN_PATHS: Final = frozenset({"/healthz", "/readyz", "/v1/credits", "/v1/models", "/v1beta/models"})
HOLDER_PATHS: Final = ("/v1/usage", "/v1/requests/", "/account", "/account/")
"""Served by the gate itself where key holders may see their usage; one that ends in a slash with what is
below it."""
"""Paths that the gate serves itself."""
MAX_CHOICES: Final = 128
"""Most outputs that one request can ask for; bounds a single charge."""
UNMETERED_DIALECTS: Final = frozenset({"anthropic_count_tokens", "gemini_count_tokens", "generic"})
"""Dialects whose responses report no usage: only free routes may use them."""
MODELLESS_DIALECT: Final = "generic"
"""The dialect whose requests name no model."""
PATH_VERBS: Final = {dialect.name: dialect.verbs for dialect in (Gemini, GeminiCountTokens)}
"""Suffixes of paths that contain the model's name."""
WELL_KNOWN_KEYS: Final = ("sk-demo", "sk-broke", "sk-pocket")
"""Keys of the sample configurations, which anyone can read."""


TOO_DEAR: Final = (
    "the most expensive possible request costs more than the 9,000,000 credits that a wallet can "
    "hold"
)
LOWER: Final = "Lower a rate, `max_output_tokens` or `context_tokens`."
TOO_DEAR_TOLD: Final = (
    f"a response of {ABSURD_FACTOR} times the bound would cost more than the 9,000,000 "
    "credits that a wallet can hold"
)
LOWER_QUANTITY: Final = "Lower a rate, or `at_most` of a quantity."
_FIELD_OF: Final = {unit: name for name, unit in PER_UNIT_FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Names:
    """What is defined under each name, whether or not it is sound; and the dialects there are."""

    upstreams: Collection[str]
    models: Collection[str]
    plans: Collection[str]
    groups: Collection[str]
    dialects: Collection[str]


def run_checks(settings: Settings, names: Names) -> Iterator[Finding]:
    """Yield everything that does not fit together."""
    for check in _CHECKS:
        yield from check(settings, names)


def _models(settings: Settings, names: Names) -> Iterator[Finding]:
    if not names.models and not any(route.upstream for route in settings.routes.values()):
        hint = "Add a model, or set `prices` on a route."
        yield Finding(("models",), "is missing, and no route has `prices`", hint)
    for name, model in settings.models.items():
        at: Path = ("models", name)
        if model.upstream is not None:
            yield from _known(model.upstream, names.upstreams, (*at, "upstream"), "upstream")
        for number, served in enumerate(model.upstreams):
            here: Path = (*at, "upstreams", number, "upstream")
            yield from _known(served.upstream, names.upstreams, here, "upstream")
        if model.group is not None:
            yield from _known(model.group, names.groups, (*at, "group"), "model group")
        yield from _price(settings, name, model.prices, (*at, "prices"))
        for number, tier in enumerate(model.auto_service_tiers):
            if tier != DEFAULT_TIER and tier not in model.prices.service_tiers:
                yield Finding(
                    (*at, "auto_service_tiers", number),
                    f"the service tier {tier!r} has no price",
                    f"Write `prices.service_tiers.{tier}`, or remove it here.",
                )
        costs = model.costs
        for section in (costs, *costs.service_tiers.values()) if costs else ():
            if _dearest_nano(settings, model, section.rates_pico()) > MAX_AMOUNT_NANO:
                yield Finding((*at, "costs"), TOO_DEAR, LOWER)


def _allowances(
    allowances: tuple[RecurringGrantSection, ...], at: Path, names: Names
) -> Iterator[Finding]:
    taken = set()
    for number, allowance in enumerate(allowances):
        here = (*at, "recurring_grants", number)
        if allowance.name in taken:
            yield Finding((*here, "name"), f"there is another named {allowance.name!r} here")
        taken.add(allowance.name)
        for index, group in enumerate(allowance.groups):
            yield from _known(group, names.groups, (*here, "groups", index), "model group")


def _overrides(
    prices: Mapping[str, PricesSection], at: Path, settings: Settings, names: Names
) -> Iterator[Finding]:
    """Check the price overrides of a plan or a customer."""
    for name, section in prices.items():
        here = (*at, "prices", name)
        yield from _known(name, names.models, here, "model")
        if name in settings.priced():
            yield from _price(settings, name, section, here)


def _price(
    settings: Settings, model_name: str, section: PricesSection, at: Path
) -> Iterator[Finding]:
    """Check that a price can be compiled and that a wallet can pay it."""
    model = settings.priced()[model_name]
    try:
        price = section.price(model.costs, counter=model_name)
        price.table()
    except Wrong as wrong:
        inside = tuple(wrong.at.split(".")) if wrong.at else ()
        yield Finding((*at, *inside), wrong.message, wrong.hint)
        return
    except ValueError as error:
        yield Finding(at, str(error))
        return
    dearest = {rate.unit: rate.dearest_pico for rate in price.rates}
    if _dearest_nano(settings, model, dearest) > MAX_AMOUNT_NANO:
        own = isinstance(model, RouteSection)
        yield Finding(at, TOO_DEAR_TOLD if own else TOO_DEAR, LOWER_QUANTITY if own else LOWER)
    if isinstance(model, RouteSection):
        own_meter: Path = ("routes", model_name, "meter")
        yield from _metered(model, price, own_meter if at[0] == "routes" else at)


def _metered(route: RouteSection, price: Price, at: Path) -> Iterator[Finding]:
    """Check that every priced quantity is metered."""
    metered = {PER_UNIT_FIELDS.get(name, name) for name in route.meter}
    for rate in price.rates:
        if rate.unit != "request" and rate.unit not in metered:
            said = _FIELD_OF.get(rate.unit, rate.unit)
            yield Finding(
                at,
                f"`{said}` has a price but no quantity",
                f"Add `{said}` to the route's `meter`, or remove its price.",
            )


def _dearest_nano(settings: Settings, model: Priced, rates_pico: Mapping[str, int]) -> int:
    """Return the charge for the largest request at the most expensive rate, or for the largest
    quantities of a route."""
    if isinstance(model, RouteSection):
        most = {
            each.unit: each.at_most * (1 if each.requested and not each.reported else ABSURD_FACTOR)
            for each in _quantities(settings, model)
        }
        most["request"] = 1
        return sum(rate * most.get(u, 0) for u, rate in rates_pico.items()) // PICO_PER_NANO
    input_bound = model.context_tokens or settings.listen.max_body_bytes
    tokens = (input_bound + model.max_output_tokens) * MAX_CHOICES
    per_token = max((rate for unit, rate in rates_pico.items() if unit in TOKEN_UNITS), default=0)
    return per_token * tokens // PICO_PER_NANO


def _quantities(settings: Settings, route: RouteSection) -> tuple[Quantity, ...]:
    upstream = settings.upstreams.get(route.upstream or "")
    return route.quantities(
        total_ms=upstream.timeouts.total_ms if upstream else 1000,
        max_body_bytes=settings.listen.max_body_bytes,
    )


def _model_groups(settings: Settings, _: Names) -> Iterator[Finding]:
    first: dict[int, str] = {}
    for group, number in settings.model_groups.items():
        if number in first:
            yield Finding(
                ("model_groups", group),
                f"the number {number} is already used by {first[number]!r}",
                "Give each group a different number.",
            )
        first.setdefault(number, group)


def _routes(settings: Settings, names: Names) -> Iterator[Finding]:
    taken: list[tuple[str, RouteSection]] = []
    for name, route in settings.routes.items():
        at: Path = ("routes", name)
        if route.prices is not None:
            yield from _own_price(settings, name, route, names)
        yield from _known(route.dialect, names.dialects, (*at, "dialect"), "dialect")
        if route.upstream is not None:
            yield from _known(route.upstream, names.upstreams, (*at, "upstream"), "upstream")
        if route.dialect in UNMETERED_DIALECTS and not route.free and route.prices is None:
            yield Finding(
                (*at, "dialect"),
                f"{route.dialect!r} reports no usage, so it cannot be charged",
                "Set `free: true` if the route is meant to be free"
                + (", or give it `prices`." if route.dialect == MODELLESS_DIALECT else "."),
            )
        if route.dialect == MODELLESS_DIALECT and route.free and route.upstream is None:
            yield Finding(
                (*at, "upstream"),
                ("is missing: a free route whose requests name no model needs one"),
            )
        verbs = PATH_VERBS.get(route.dialect, ())
        if verbs and not route.path.endswith(tuple(f"/{{model}}:{verb}" for verb in verbs)):
            wanted = " or ".join(f"{{model}}:{verb}" for verb in verbs)
            yield Finding(
                (*at, "path"), f"a path of {route.dialect!r} names the model: it ends in {wanted}"
            )
        for other, before in taken:
            if (clash := _clash(route, before)) is not None:
                yield Finding((*at, "path"), f"the route {other!r} {clash}")
                break
        taken.append((name, route))
        if route.path in OWN_PATHS or (
            route.path.startswith(("/v1/models/", "/v1beta/models/")) and not verbs
        ):
            yield Finding((*at, "path"), f"{route.path} is served by the gate itself")
        if settings.key_holders.enabled and any(
            route.path == own or (own.endswith("/") and route.path.startswith(own))
            for own in HOLDER_PATHS
        ):
            yield Finding(
                (*at, "path"),
                f"{route.path} is served by the gate itself while `key_holders` is enabled",
            )
        if route.priced_tools and not any(
            model.prices.prices_unit("tool_call", model.costs) for model in settings.models.values()
        ):
            yield Finding(
                (*at, "priced_tools"),
                "no model has a price per tool call, so the tools would be free",
                "Set `per_tool_call` in the prices of the models that may call them.",
            )


def _clash(route: RouteSection, before: RouteSection) -> str | None:
    """Say how two routes would match the same request."""
    if route.path == before.path:
        methods = set(route.methods) & set(before.methods)
        return f"has the same path for {min(methods)}" if methods else None
    if "{" in route.path and "{" in before.path:
        overlap = Template(route.path).overlaps(Template(before.path))
        return f"has an overlapping path, {before.path}" if overlap else None
    return None


def _own_price(
    settings: Settings, name: str, route: RouteSection, names: Names
) -> Iterator[Finding]:
    """A route that is priced like a model of its name."""
    at: Path = ("routes", name)
    assert route.prices is not None
    if route.dialect != MODELLESS_DIALECT:
        yield Finding(
            (*at, "prices"),
            f"requests of the dialect {route.dialect!r} name a model, whose price is charged",
            f"Remove them, or set `dialect: {MODELLESS_DIALECT}`.",
        )
    if name in settings.models:
        yield Finding(at, "has prices, but a model has the same name", "Rename one.")
        return
    if route.group is not None:
        yield from _known(route.group, names.groups, (*at, "group"), "model group")
    prices = {PER_UNIT_FIELDS.get(each, each) for each in route.meter}
    for unit in sorted(prices):
        if not route.prices.prices_unit(unit, route.costs):
            said = _FIELD_OF.get(unit, unit)
            yield Finding((*at, "meter", said), "has no price", f"Set `{said}` in `prices`.")
    yield from _price(settings, name, route.prices, (*at, "prices"))


def _plans_and_customers(settings: Settings, names: Names) -> Iterator[Finding]:
    for name, plan in settings.plans.items():
        at: Path = ("plans", name)
        yield from _grants(plan.grants, at, names, {})
        yield from _limits(plan.limits, at, names)
        yield from _allowed(plan.models, at, names)
        yield from _overrides(plan.prices, at, settings, names)
        yield from _allowances(plan.recurring_grants, at, names)
    for name, customer in settings.customers.items():
        at = ("customers", name)
        inherited: dict[str, str] = {}
        if customer.plan is not None:
            yield from _known(customer.plan, names.plans, (*at, "plan"), "plan")
            if customer.plan in settings.plans:
                grants = settings.plans[customer.plan].grants
                inherited = {grant.name: f"the plan {customer.plan!r}" for grant in grants}
        yield from _grants(customer.grants, at, names, inherited)
        yield from _limits(customer.limits, at, names)
        yield from _allowed(customer.models, at, names)
        yield from _overrides(customer.prices, at, settings, names)
        yield from _allowances(customer.recurring_grants, at, names)
        for number, key in enumerate(customer.keys):
            yield from _allowed(key.models, (*at, "keys", number), names)
            yield from _own_limits(key.limits, (*at, "keys", number))
        yield from _project_limits(customer, at)
        if customer.plan is None or customer.plan in settings.plans:
            yield from _counters(settings, name, at)


def _counters(settings: Settings, customer_id: str, at: Path) -> Iterator[Finding]:
    """Check that one record has room for its counters, each under a different id."""
    mine: dict[tuple[int, int], Limit] = {}
    for limit in settings.limits(customer_id):
        same = mine.setdefault((limit.counts_in, limit.counter_id), limit)
        if same is not limit and "concurrent" not in (limit.measure, same.measure):
            yield Finding(
                (*at, "limits"),
                f"the limits on {same.model!r} and {limit.model!r} would share a counter (32 bits "
                "of their names are the same)",
                "Rename one of the models.",
            )
    if len(mine) > MAX_LIMITS:
        yield Finding(
            (*at, "limits"),
            f"{len(mine)} limits, one per model included; at most {MAX_LIMITS} are allowed",
            "Limit fewer models individually.",
        )


def _project_limits(customer: CustomerSection, at: Path) -> Iterator[Finding]:
    theirs = {key.project for key in customer.keys if key.project is not None}
    for name, project in customer.projects.items():
        here = (*at, "projects", name)
        yield from _own_limits(project.limits, here)
        near = difflib.get_close_matches(name, theirs, n=1, cutoff=0.6)
        if name not in theirs and near:
            yield Finding(
                here,
                f"no key of this customer has the project {name!r}",
                f"Did you mean {near[0]!r}?",
            )
    mine = [limit for limit in customer.limits if limit.scope == "project"]
    if mine and customer.keys and all(key.project is None for key in customer.keys):
        yield Finding(
            (*at, "limits"),
            "a limit has the scope `project`, but no key of this customer has a project",
            "Give the keys a `project`, or use the scope `key` or `customer`.",
        )


def _grants(
    grants: tuple[GrantSection, ...], at: Path, names: Names, taken: dict[str, str]
) -> Iterator[Finding]:
    taken = dict(taken)
    for number, grant in enumerate(grants):
        here = (*at, "grants", number)
        if grant.name in taken:
            yield Finding(
                (*here, "name"),
                f"{taken[grant.name]} already has a starting grant named {grant.name!r}",
                "A grant happens once per name: choose another name.",
            )
        taken.setdefault(grant.name, f"{at[-1]!r}")
        for index, group in enumerate(grant.groups):
            yield from _known(group, names.groups, (*here, "groups", index), "model group")


def _limits(limits: tuple[LimitSection, ...], at: Path, names: Names) -> Iterator[Finding]:
    seen: set[tuple[str, str, str, str | None]] = set()
    for number, section in enumerate(limits):
        here = (*at, "limits", number)
        for index, model in enumerate(section.models):
            yield from _known(model, names.models, (*here, "models", index), "model")
        if section.model is not None:
            yield from _known(section.model, names.models, (*here, "model"), "model")
        places = [limit.place for limit in section.compiled()]
        if len(set(places)) < len(places) or not seen.isdisjoint(places):
            yield _twice(here, "scope, measure and window")
        seen |= set(places)


def _own_limits(limits: tuple[OwnLimitSection, ...], at: Path) -> Iterator[Finding]:
    seen: set[tuple[str, str | None]] = set()
    for number, section in enumerate(limits):
        place = (section.measure, section.window)
        if place in seen:
            yield _twice((*at, "limits", number), "measure and window")
        seen.add(place)


def _twice(at: Path, same: str) -> Finding:
    return Finding(at, f"another limit here has the same {same}", "Remove one of them.")


def _allowed(models: tuple[str, ...] | None, at: Path, names: Names) -> Iterator[Finding]:
    for number, model in enumerate(models or ()):
        yield from _known(model, names.models, (*at, "models", number), "model")


def _signals(settings: Settings, names: Names) -> Iterator[Finding]:
    for name in settings.signals.plans:
        yield from _known(name, names.plans, ("signals", "plans", name), "plan")
    for name in settings.signals.customers:
        known = settings.customers
        yield from _known(name, known, ("signals", "customers", name), "customer")


def _keys(settings: Settings, _: Names) -> Iterator[Finding]:
    by_hash: dict[str, str] = {}
    by_id: dict[str, str] = {}
    public = not is_loopback(settings.listen.host)
    peppered = settings.auth.key_pepper is not None
    well_known = {hashlib.sha256(key.encode()).hexdigest(): key for key in WELL_KNOWN_KEYS}
    for customer_id, customer in settings.customers.items():
        for number, key in enumerate(customer.keys):
            at: Path = ("customers", customer_id, "keys", number)
            if key.sha256 in by_hash:
                yield Finding(
                    (*at, "sha256"),
                    f"the same key already belongs to {by_hash[key.sha256]!r}",
                    "A key belongs to one customer; create another with `creditgate key create`.",
                )
            elif key.key_id in by_id:
                yield Finding(
                    (*at, "id"),
                    f"{by_id[key.key_id]!r} has a key with the id {key.key_id!r}",
                    "Key ids must be unique.",
                )
            by_hash.setdefault(key.sha256, customer_id)
            by_id.setdefault(key.key_id, customer_id)
            if public and not peppered and key.sha256 in well_known:
                yield Finding(
                    (*at, "sha256"),
                    f"this is {well_known[key.sha256]!r}, a public key of the samples, "
                    f"and the gate listens on {settings.listen.host}",
                    "Create a key with `creditgate key create`, or listen on 127.0.0.1.",
                )


def _webhook(settings: Settings, _: Names) -> Iterator[Finding]:
    if settings.signals.webhook is not None and not can_schedule(settings.required_store()):
        yield Finding(
            ("signals", "webhook"),
            f"the required store {settings.export.required!r} cannot schedule webhooks: that takes"
            " transactions",
            "Require a sqlite or postgres store under `export.required`, with this one as a sink that"
            " follows it, or remove the webhook.",
        )


def _listeners(settings: Settings, _: Names) -> Iterator[Finding]:
    listen, admin = settings.listen, settings.admin
    if listen.port == admin.port != 0:
        yield Finding(
            ("admin", "port"),
            f"{admin.port} is also the gate's port",
            "Set a different `admin.port`.",
        )
    if not is_loopback(admin.host) and admin.token is None:
        yield Finding(
            ("admin", "host"),
            f"{admin.host} can be reached from other machines, and no token is set",
            "Set `admin.token`, or listen on 127.0.0.1.",
        )
    console = settings.console
    if not console.enabled:
        if settings.payments.stripe is not None or settings.payments.sources:
            yield Finding(
                ("payments",),
                "the console's process receives payments, and it is disabled",
                "Set `console.enabled: true`, or remove `payments`.",
            )
        return
    for name, port in ("gate's", listen.port), ("admin", admin.port):
        if console.port == port != 0:
            yield Finding(
                ("console", "port"),
                f"{port} is also the {name} port",
                "Set a different `console.port`.",
            )
    if not is_loopback(console.host) and console.tls is None and console.public_url is None:
        yield Finding(
            ("console", "host"),
            f"{console.host} can be reached from other machines, without TLS",
            "Set `console.tls`, set `console.public_url` to the URL of the proxy in front that serves"
            " HTTPS, or listen on 127.0.0.1.",
        )


def _known(name: str, known: Collection[str], path: Path, what: str) -> Iterator[Finding]:
    if name not in known:
        yield Finding(path, f"there is no {what} {name!r}", suggest(name, known))


_CHECKS: Final[tuple[Callable[[Settings, Names], Iterator[Finding]], ...]] = (
    _models,
    _model_groups,
    _routes,
    _plans_and_customers,
    _signals,
    _webhook,
    _keys,
    _listeners,
)
