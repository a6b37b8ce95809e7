"""The price book as values: the price of each model, and who has a different one.

Invariants: a book is immutable. A schedule says which one is active at a moment. The ledger keeps both
(`gateway/ledger/pricebook.py`), so all gates charge alike, whatever configurations they were started
with. An override is a complete price: it inherits nothing from the model's.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.domain.pricing import PriceTable, Rate, compile_prices

Overrides = Mapping[str, str]
"""Model → price_version."""


@dataclass(frozen=True, slots=True)
class Price:
    """One price as it was given, from which its rows are compiled.

    rates:       what a customer is charged
    costs_pico:  unit → pico-credits per unit, what the provider bills; empty when unknown
    counter:     what its periods count, the model: another price of it goes on in the same count
    """

    rates: tuple[Rate, ...]
    costs_pico: Mapping[str, int] = field(default_factory=dict)
    counter: str = ""

    def table(self) -> PriceTable:
        """Compile the rows for the scripts. Raises ValueError if the price cannot be rated."""
        return compile_prices(self.rates, self.costs_pico, counter=self.counter)


@dataclass(frozen=True, slots=True)
class Customer:
    """What differs for one customer: its plan's overrides, and its own on top."""

    plan: str | None = None
    prices: Overrides = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Book:
    """Who pays what: price versions by model, by plan and model, by customer and model.

    customers: only those that have overrides, or a plan that has
    """

    models: Overrides
    plans: Mapping[str, Overrides] = field(default_factory=dict)
    customers: Mapping[str, Customer] = field(default_factory=dict)

    def overrides_of(self, customer_id: str) -> Overrides:
        """Return the models that have a different price for this customer."""
        customer = self.customers.get(customer_id)
        if customer is None:
            return {}
        plan = self.plans.get(customer.plan, {}) if customer.plan else {}
        return {**plan, **customer.prices}

    def version_for(self, model: str, customer_id: str | None = None) -> str | None:
        """Return the price version of a model, for a customer or in general; None if it has none."""
        own = self.overrides_of(customer_id).get(model) if customer_id else None
        return own or self.models.get(model)

    def versions(self) -> set[str]:
        """Return every price version that the book names."""
        named = {*self.models.values()}
        for overrides in self.plans.values():
            named.update(overrides.values())
        for customer in self.customers.values():
            named.update(customer.prices.values())
        return named

    def digest(self) -> str:
        """Digest of the book's content."""
        lines = [f"m {model} {version}" for model, version in self.models.items()]
        for plan, overrides in self.plans.items():
            lines += [f"p {plan} {model} {version}" for model, version in overrides.items()]
        for name, customer in self.customers.items():
            lines.append(f"c {name} {customer.plan or ''}")
            lines += [f"c {name} {model} {version}" for model, version in customer.prices.items()]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a configuration says of prices.

    plans, customers: the names of all that it has, with overrides or without
    prices:           the prices themselves by version
    """

    book: Book
    plans: frozenset[str]
    customers: frozenset[str]
    prices: Mapping[str, Price]

    def tables(self) -> dict[str, PriceTable]:
        """Compile the prices to rows for the scripts, by version."""
        return {version: price.table() for version, price in self.prices.items()}

    def on(self, base: Book) -> Book:
        """Apply this configuration to a book: what it defines is replaced, what it does not know
        is kept, for gates that still offer it."""
        gone = self.customers
        return Book(
            models={**base.models, **self.book.models},
            plans={
                **{name: own for name, own in base.plans.items() if name not in self.plans},
                **self.book.plans,
            },
            customers={
                **{name: own for name, own in base.customers.items() if name not in gone},
                **self.book.customers,
            },
        )

    def under(self, in_force: Book) -> Book:
        """Return the active book, extended by this configuration's prices for models that the
        book does not name: what a gate charges by. No price that `in_force` states changes for
        anyone."""
        new = {name: v for name, v in self.book.models.items() if name not in in_force.models}
        if not new:
            return in_force
        plans = {name: dict(own) for name, own in in_force.plans.items()}
        for name, overrides in self.book.plans.items():
            own = {model: version for model, version in overrides.items() if model in new}
            if own:
                plans[name] = {**plans.get(name, {}), **own}
        customers = dict(in_force.customers)
        for name, customer in self.book.customers.items():
            known = customers.get(name)
            if known is None and customer.plan not in in_force.plans:
                own = {model: version for model, version in customer.prices.items() if model in new}
                customers[name] = Customer(customer.plan, own)
                continue
            # Naming the plan here would also give this customer the plan's prices for old models.
            own = {m: version for m, version in self.book.overrides_of(name).items() if m in new}
            if known is not None:
                customers[name] = Customer(known.plan, {**known.prices, **own})
            elif own:
                customers[name] = Customer(None, own)
        return Book({**in_force.models, **new}, plans, customers)

    def new_plans(self, base: Book) -> frozenset[str]:
        """Return the plans with prices of which the base states none."""
        return frozenset(self.book.plans.keys() - base.plans.keys())

    def added_to(
        self,
        base: Book,
        new_customers: frozenset[str] = frozenset(),
        plans_in_use: frozenset[str] = frozenset(),
    ) -> Book:
        """Return the base plus all that nobody pays yet: models that the base does not name, plans that
        nobody is on, and the prices of customers who did not exist before.

        plans_in_use: those of customers in the ledger, whom no book names
        """
        extended = self.under(base)
        fresh = new_customers - base.customers.keys()
        in_use = {own.plan for name, own in extended.customers.items() if name not in fresh}
        plans, customers = dict(extended.plans), dict(extended.customers)
        plans.update(
            {name: self.book.plans[name] for name in self.new_plans(base) - in_use - plans_in_use}
        )
        customers.update(
            {name: self.book.customers[name] for name in fresh & self.book.customers.keys()}
        )
        return Book(extended.models, plans, customers)


@dataclass(frozen=True, slots=True)
class PriceChange:
    """One price that differs between two books.

    plan, customer_id:  whose it is; both None for the price of everyone else
    before, after:      price versions; None where that book states no price of its own
    """

    model: str
    plan: str | None
    customer_id: str | None
    before: str | None
    after: str | None


def price_changes(before: Book, after: Book) -> tuple[PriceChange, ...]:
    """Yield every price that differs between two books, in a stable order."""
    changes = [
        PriceChange(model, None, None, old, new)
        for model, old, new in _differing(before.models, after.models)
    ]
    for plan in sorted({*before.plans, *after.plans}):
        own = _differing(before.plans.get(plan, {}), after.plans.get(plan, {}))
        changes += [PriceChange(model, plan, None, old, new) for model, old, new in own]
    for name in sorted({*before.customers, *after.customers}):
        was, becomes = before.customers.get(name, Customer()), after.customers.get(name, Customer())
        if was.plan == becomes.plan:
            own = _differing(was.prices, becomes.prices)
        else:  # another plan: what the customer pays changes, though no override of its own does
            own = _differing(before.overrides_of(name), after.overrides_of(name))
        changes += [PriceChange(model, None, name, old, new) for model, old, new in own]
    return tuple(changes)


def _differing(before: Overrides, after: Overrides) -> list[tuple[str, str | None, str | None]]:
    return [
        (model, before.get(model), after.get(model))
        for model in sorted({*before, *after})
        if before.get(model) != after.get(model)
    ]


def adds_only(before: Book, after: Book) -> bool:
    """Say whether `after` changes no price that anybody pays under `before`: it only adds models."""
    models = {*before.models, *(m for own in before.plans.values() for m in own)}
    models |= {m for customer in before.customers.values() for m in customer.prices}
    if any(before.models.get(model) != after.models.get(model) for model in models):
        return False
    who = {*before.customers, *after.customers}
    return all(
        before.version_for(model, name) == after.version_for(model, name)
        for name in who
        for model in {*before.overrides_of(name), *after.overrides_of(name)} & models
    )


BookState = Literal["in_force", "scheduled", "pending", "superseded", "kept"]
"""State of a book; `pending` applies only to a configuration whose prices differ from it."""


@dataclass(frozen=True, slots=True)
class Activation:
    """From when a book is in force. Times are Unix ms by the ledger's clock.

    reason: who asked for it: configuration, apply, activate, rollback
    """

    number: int
    from_ms: int
    decided_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """All activations, in the order in which they take effect."""

    activations: tuple[Activation, ...] = ()

    def at(self, now_ms: int) -> Activation | None:
        """Return the activation in force at a moment: the last one that has begun."""
        begun = [each for each in self.activations if each.from_ms <= now_ms]
        return begun[-1] if begun else None

    def next(self, now_ms: int) -> Activation | None:
        """Return the next activation."""
        return next((each for each in self.activations if each.from_ms > now_ms), None)

    def state_of(self, number: int, now_ms: int) -> BookState:
        """Return the state of a book."""
        current = self.at(now_ms)
        if current is not None and current.number == number:
            return "in_force"
        if any(each.number == number and each.from_ms > now_ms for each in self.activations):
            return "scheduled"
        known = any(each.number == number for each in self.activations)
        return "superseded" if known else "kept"

    def plus(self, activation: Activation) -> "Schedule":
        """Add an activation. Of two that begin at the same moment, the one decided later counts."""
        both = [*self.activations, activation]
        return Schedule(tuple(sorted(both, key=lambda each: (each.from_ms, each.decided_ms))))

    def begun(self, now_ms: int) -> "Schedule":
        """Drop the activations that have not begun."""
        return Schedule(tuple(each for each in self.activations if each.from_ms <= now_ms))

    def without(self, activation: Activation) -> "Schedule":
        """Drop one activation that has not begun."""
        return Schedule(tuple(each for each in self.activations if each != activation))


def undo(schedule: Schedule, now_ms: int, lead_ms: int) -> Schedule | None:
    """Undo the last activation: cancel one that has not begun; else activate the previous book,
    `lead_ms` from now. None if there is nothing to undo."""
    if schedule.next(now_ms) is not None:
        return schedule.without(schedule.activations[-1])
    current = schedule.at(now_ms)
    if current is None:
        return None
    earlier = [each for each in schedule.activations if each.number != current.number]
    if not earlier:
        return None
    return schedule.plus(Activation(earlier[-1].number, now_ms + lead_ms, now_ms, "rollback"))
