"""Limits, and the projects of a customer, which are names with limits of their own."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import Depends, Path, Query
from pydantic import BeforeValidator, ConfigDict, Field

from gateway.admin.api.errors import ApiError
from gateway.admin.api.models import (
    CREDITS_PATTERN,
    Body,
    ListOf,
    Model,
    ModelName,
    Moment,
    Paging,
    ProjectId,
    Reason,
    RecordId,
    WalletId,
)
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.domain.limits import Limit as OwnLimit
from gateway.domain.limits import Measure, Scope, Window
from gateway.domain.money import MoneyError, format_amount, parse_amount
from gateway.domain.standing import standing_document
from gateway.operations.customer_changes import CustomerChange, update_customer
from gateway.operations.customers import get_customer
from gateway.operations.errors import NotFound
from gateway.operations.wallets import show_wallet

router = api_router("Limits and projects")

MAX_COUNT: Final = 999_999_999_999
LIMITS_MOST: Final = 50


Counted = Annotated[
    str, BeforeValidator(str), Field(description="Credits for `spend`, else a count.")
]


class Limit(Model):
    """A ceiling on what a scope may do in a window, or concurrently."""

    scope: Scope
    model: str | None
    measure: Measure
    window: Annotated[Window | None, Field(description="null for `concurrent`.")]
    ceiling: Annotated[str, Field(description="Credits for `spend`, else a count.")]
    rolling: bool


class LimitStanding(Model):
    """A limit with what is used of it."""

    scope: Scope
    name: str | None
    measure: Measure
    window: str | None
    rolling: bool
    used: Counted
    held: Counted
    left: Counted
    ceiling: Counted
    window_end: Moment | None


_COUNT: Final = {"type": "string", "pattern": "^[0-9]{1,12}$"}
_WINDOWED: Final = {"enum": list(get_args(Window))}
_TOGETHER: Final[dict[str, Any]] = {
    "allOf": [
        {
            "anyOf": [
                {
                    "properties": {
                        "measure": {"const": "spend"},
                        "window": _WINDOWED,
                        "ceiling": {"type": "string", "pattern": CREDITS_PATTERN},
                    },
                    "required": ["window"],
                },
                {
                    "properties": {
                        "measure": {"enum": ["requests", "tokens"]},
                        "window": _WINDOWED,
                        "ceiling": _COUNT,
                    },
                    "required": ["window"],
                },
                {
                    "properties": {
                        "measure": {"const": "concurrent"},
                        "window": {"enum": [None, "total"]},
                        "ceiling": _COUNT,
                        "rolling": {"const": False},
                    },
                },
            ]
        },
        {
            "anyOf": [
                {"properties": {"rolling": {"const": False}}},
                {"properties": {"window": {"not": {"const": "total"}}}},
            ]
        },
    ]
}
"""Which fields of a limit fit together, for the API's description."""
_OF_MODEL: Final[dict[str, Any]] = {
    "anyOf": [
        {
            "properties": {"scope": {"const": "model"}, "model": {"type": "string"}},
            "required": ["scope", "model"],
        },
        {
            "properties": {
                "scope": {"enum": ["customer", "project", "key"]},
                "model": {"type": "null"},
            }
        },
    ]
}


class _LimitBody(Body):
    measure: Measure
    window: Annotated[
        Window | None, Field(description="Required, except for `concurrent`, which has none.")
    ] = None
    ceiling: Annotated[
        str,
        Field(
            pattern=r"^[0-9]{1,13}(\.[0-9]{1,9})?$",
            description='Credits for `spend` ("5.00"), else a count ("60").',
            examples=["5.00"],
        ),
    ]
    rolling: Annotated[
        bool,
        Field(
            strict=True,
            description="No period of the window's length exceeds the ceiling, wherever it starts.",
        ),
    ] = False


class OwnLimitBody(_LimitBody):
    """A limit of one project or key. It replaces one with the same measure and window that applies to
    all."""

    model_config = ConfigDict(json_schema_extra=_TOGETHER)


class LimitBody(_LimitBody):
    """A limit of a customer. It replaces one of the plan with the same scope, measure and window."""

    model_config = ConfigDict(json_schema_extra={"allOf": [*_TOGETHER["allOf"], _OF_MODEL]})

    scope: Scope = "customer"
    model: Annotated[ModelName | None, Field(description="With the scope `model`: its name.")] = (
        None
    )


class LimitsBody(Body):
    """Every limit that is the customer's own."""

    limits: Annotated[tuple[LimitBody, ...], Field(max_length=LIMITS_MOST)]
    reason: Reason | None = None


class ProjectBody(Body):
    """A project's own limits."""

    limits: Annotated[tuple[OwnLimitBody, ...], Field(max_length=LIMITS_MOST)] = ()
    reason: Reason | None = None


class Project(Model):
    """A project of a customer."""

    object: Literal["project"] = "project"
    id: str
    customer_id: str
    limits: list[Limit]


class ProjectGone(Model):
    """A project that was removed."""

    object: Literal["project"] = "project"
    id: str
    customer_id: str
    deleted: Literal[True] = True


def limits_of(limits: Iterable[OwnLimit]) -> list[Limit]:
    """Limits as the API answers them."""
    return [
        Limit(
            scope=each.scope,
            model=each.model,
            measure=each.measure,
            window=None if each.measure == "concurrent" else each.window,
            ceiling=format_amount(each.ceiling) if each.measure == "spend" else str(each.ceiling),
            rolling=each.rolling,
        )
        for each in limits
    ]


def read_limits(
    bodies: Sequence[LimitBody | OwnLimitBody], scope: Scope | None = None
) -> tuple[OwnLimit, ...]:
    """Limits as a client sends them. scope: of all; None for each one's own. Raises ApiError."""
    return tuple(_read(number, body, scope) for number, body in enumerate(bodies))


def _read(number: int, body: LimitBody | OwnLimitBody, scope: Scope | None) -> OwnLimit:
    def wrong(name: str, said: str) -> ApiError:
        return ApiError("parameter_invalid", f"`{name}` {said}.", param=f"limits.{number}.{name}")

    model = body.model if isinstance(body, LimitBody) else None
    of = scope or (body.scope if isinstance(body, LimitBody) else "customer")
    if (of == "model") is (model is None):
        raise wrong("model", "belongs to a limit of the scope `model`, and only to that one")
    if body.window not in (None, "total") if body.measure == "concurrent" else body.window is None:
        raise wrong("window", "is required, except for `concurrent`, which has none")
    window = body.window or "total"
    if body.rolling and window == "total":
        raise wrong("rolling", "needs a window")
    try:
        ceiling = parse_amount(body.ceiling) if body.measure == "spend" else _count(body.ceiling)
    except MoneyError as error:
        raise wrong("ceiling", f"is not usable: {error}") from error
    return OwnLimit(of, body.measure, window, ceiling, body.rolling, model)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_COUNT:
        raise MoneyError(f"{text!r} is not a whole number up to {MAX_COUNT}")
    return int(text)


@router.get("/limits", summary="List the limits of a wallet, with what is used of each")
async def list_limits(
    customer_id: Annotated[WalletId, Query()],
    session: Annotated[Session, Depends(require("limits.read"))],
) -> ListOf[LimitStanding]:
    view = await show_wallet(session.backend, customer_id)
    standings = [LimitStanding(**standing_document(each)) for each in view.limits]
    return ListOf[LimitStanding](data=standings, has_more=False)


@router.put("/customers/{customer_id}/limits", summary="Replace the customer's own limits")
async def replace_limits(
    customer_id: Annotated[RecordId, Path()],
    body: LimitsBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("limits.write"))],
) -> ListOf[Limit]:
    change = CustomerChange(limits=read_limits(body.limits))
    view = await update_customer(session.backend, customer_id, change, body.reason)
    return ListOf[Limit](data=limits_of(view.record.limits), has_more=False)


@router.get("/customers/{customer_id}/projects", summary="List the projects of a customer")
async def list_projects(
    customer_id: Annotated[RecordId, Path()],
    paging: Annotated[Paging, Query()],
    session: Annotated[Session, Depends(require("customers.read"))],
) -> ListOf[Project]:
    record = (await get_customer(session.backend, customer_id)).record
    projects = [
        Project(id=name, customer_id=customer_id, limits=limits_of(limits))
        for name, limits in sorted(record.projects.items())
    ]
    return ListOf[Project].page(projects, paging, lambda each: each.id)


@router.put(
    "/customers/{customer_id}/projects/{project_id}",
    summary="Create a project, or replace its limits",
)
async def put_project(
    customer_id: Annotated[RecordId, Path()],
    project_id: ProjectId,
    body: ProjectBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("limits.write"))],
) -> Project:
    limits = read_limits(body.limits, "project")
    record = (await get_customer(session.backend, customer_id)).record
    change = CustomerChange(projects={**record.projects, project_id: limits})
    await update_customer(session.backend, customer_id, change, body.reason)
    return Project(id=project_id, customer_id=customer_id, limits=limits_of(limits))


@router.delete(
    "/customers/{customer_id}/projects/{project_id}",
    summary="Remove a project. Its keys stay valid, without the project's limits",
)
async def delete_project(
    customer_id: Annotated[RecordId, Path()],
    project_id: ProjectId,
    _: WriteKey,
    session: Annotated[Session, Depends(require("limits.write"))],
    reason: Reason | None = None,
) -> ProjectGone:
    record = (await get_customer(session.backend, customer_id)).record
    if project_id not in record.projects:
        raise NotFound(f"{customer_id} has no project {project_id}")
    left = {name: limits for name, limits in record.projects.items() if name != project_id}
    await update_customer(session.backend, customer_id, CustomerChange(projects=left), reason)
    return ProjectGone(id=project_id, customer_id=customer_id)
