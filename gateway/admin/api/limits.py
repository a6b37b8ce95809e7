"""Limits, and the projects of a customer, which are names with limits."""

from typing import Annotated, Literal

from fastapi import Depends, Path, Query
from pydantic import Field

from gateway.admin.api.limit_models import (
    LIMITS_MOST,
    Limit,
    LimitBody,
    LimitStanding,
    OwnLimitBody,
    limits_of,
    read_limits,
)
from gateway.admin.api.models import (
    Body,
    ListOf,
    Model,
    Paging,
    ProjectId,
    Reason,
    RecordId,
    WalletId,
)
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.domain.standing import standing_document
from gateway.operations.customer_changes import CustomerChange, update_customer
from gateway.operations.customers import get_customer
from gateway.operations.errors import NotFound
from gateway.operations.wallets import show_wallet

router = api_router("Limits and projects")


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
