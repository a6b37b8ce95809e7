"""Modes: whether requests that cannot be paid are refused, for everything or one customer."""

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import Depends
from pydantic import Field

from gateway.admin.api.models import Body, Model, Moment, Reason, RecordId
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.domain.customers import Mode
from gateway.operations.modes import (
    ModeChange,
    change_mode,
    mode_document,
    modes_document,
    show_modes,
)

router = api_router("Modes")


class ModeInForce(Model):
    """A mode, and where it comes from."""

    mode: Mode
    source: Literal["configuration", "set"]
    since: Moment | None = None
    actor: str | None = None
    reason: str | None = None


class Modes(Model):
    """The modes in force."""

    object: Literal["modes"] = "modes"
    everything: ModeInForce
    customers: Annotated[
        Mapping[str, ModeInForce], Field(description="Those that differ from everything.")
    ]


class ModeBody(Body):
    """A mode to set."""

    mode: Annotated[Mode | None, Field(description="null: what the configuration says.")]
    customer_id: Annotated[RecordId | None, Field(description="Everything if omitted.")] = None
    reason: Reason


class ModeChanged(Model):
    """What is in force now. Every worker follows within a second."""

    object: Literal["mode"] = "mode"
    customer_id: str | None
    mode: Mode
    changed: bool
    customers_with_their_own: Annotated[
        int, Field(description="Customers that a mode for everything does not reach.")
    ]


@router.get("/modes", summary="Retrieve the modes in force")
async def retrieve_modes(
    session: Annotated[Session, Depends(require("modes.read"))],
) -> Modes:
    return Modes(**modes_document(await show_modes(session.backend)))


@router.post("/modes", summary="Set a mode, or return to the configuration's")
async def set_mode(
    body: ModeBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("modes.write"))],
) -> ModeChanged:
    change = ModeChange(body.customer_id, body.mode, body.reason)
    return ModeChanged(**mode_document(await change_mode(session.backend, change)))
