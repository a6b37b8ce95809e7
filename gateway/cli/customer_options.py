"""What `customer create` and `customer update` are given."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.limit_options import LIMIT, ProjectLimit, limit, project_limit
from gateway.cli.output import fail
from gateway.cli.parameters import zero_or_amount
from gateway.domain.limits import Limit
from gateway.settings.document import Document


class Unset(StrEnum):
    """Fields that `customer update --unset` empties; then the plan's apply."""

    PLAN = "plan"
    NAME = "name"
    EMAIL = "email"
    EXTERNAL = "external"
    TAGS = "tags"
    CREDIT_LIMIT = "credit-limit"
    BILLING_DAY = "billing-day"
    MODELS = "models"
    LIMITS = "limits"
    PROJECT_LIMITS = "project-limits"
    PRICES = "prices"


EMPTY: Final[Mapping[Unset, Mapping[str, Any]]] = {
    Unset.PLAN: {"plan": None},
    Unset.NAME: {"name": None},
    Unset.EMAIL: {"email": None},
    Unset.EXTERNAL: {"external_ids": {}},
    Unset.TAGS: {"tags": {}},
    Unset.CREDIT_LIMIT: {"credit_limit_nano": None},
    Unset.BILLING_DAY: {"billing_day": None},
    Unset.MODELS: {"models": None},
    Unset.LIMITS: {"limits": ()},
    Unset.PROJECT_LIMITS: {"projects": {}},
    Unset.PRICES: {"prices": {}},
}


@dataclass(frozen=True, slots=True)
class Pair:
    """What an option `NAME=VALUE` says."""

    name: str
    value: str


def pair(text: str) -> Pair:
    """Read `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"{text!r} must be NAME=VALUE")
    return Pair(name, value)


Customer = Annotated[str, typer.Argument(metavar="CUSTOMER", help="The customer's id.")]
Plan = Annotated[str | None, typer.Option(metavar="PLAN", help="A plan of the configuration.")]
Name = Annotated[
    str | None, typer.Option(help="What people call it. Personal data: erased by `delete`.")
]
Email = Annotated[str | None, typer.Option(help="Personal data: erased by `delete`.")]
External = Annotated[
    list[Pair] | None,
    typer.Option(
        metavar="SYSTEM=ID",
        parser=pair,
        help="Its id in another system, such as stripe=cus_123; may be repeated.",
    ),
]
Tag = Annotated[
    list[Pair] | None,
    typer.Option(metavar="NAME=VALUE", parser=pair, help="Kept on its events; may be repeated."),
]
CreditLimit = Annotated[
    int | None,
    typer.Option(
        metavar="AMOUNT",
        parser=zero_or_amount,
        help="How far it may be in debt, instead of the plan's.",
    ),
]
BillingDay = Annotated[
    int | None,
    typer.Option(min=1, max=31, help="On which its months begin, instead of the plan's."),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Restrict it to this model, instead of the plan's; may be repeated.",
    ),
]
Limits = Annotated[
    list[Limit] | None,
    typer.Option(
        "--limit",
        metavar=LIMIT,
        parser=limit,
        help="Such as spend/month=100.00, key:requests/day=100 or model:NAME:tokens/minute=1000; may be"
        " repeated. Replaces the plan's of the same scope, measure and window.",
    ),
]
ProjectLimits = Annotated[
    list[ProjectLimit] | None,
    typer.Option(
        "--project-limit",
        metavar="PROJECT:MEASURE/WINDOW=CEILING",
        parser=project_limit,
        help="Of one project, such as website:spend/month=25.00; may be repeated.",
    ),
]
PricesFile = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        metavar="FILE",
        help="YAML: model → prices as the configuration writes them. It pays them instead of its plan's"
        " and the model's.",
    ),
]


def by_name(pairs: Iterable[Pair]) -> dict[str, str]:
    """The values by name."""
    return {each.name: each.value for each in pairs}


def by_project(limits: Iterable[ProjectLimit]) -> dict[str, tuple[Limit, ...]]:
    """The limits by project."""
    found: dict[str, tuple[Limit, ...]] = {}
    for each in limits:
        found[each.project] = (*found.get(each.project, ()), each.limit)
    return found


def read_prices(file: Path | None) -> Mapping[str, Mapping[str, Any]] | None:
    """The prices of a file by model. Ends the command if it cannot be read."""
    if file is None:
        return None
    document = Document(file, os.environ)
    if document.problems:
        raise fail("\n".join(str(problem) for problem in document.problems))
    for model, price in document.tree.items():
        if not isinstance(price, dict):
            raise fail(f"{file}: {model} must be a mapping of prices, such as `input: 2.00`")
    return document.tree
