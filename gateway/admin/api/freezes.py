"""Freezing a wallet, cancelling its requests, thawing it."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import Depends, Path
from pydantic import Field

from gateway.admin.api.models import Body, Model, Reason, WalletId
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.operations import freeze
from gateway.operations.backend import Backend
from gateway.operations.freeze import StatusSet

router = api_router("Freezes")

Operation = Callable[[Backend, str, str | None], Awaitable[StatusSet]]


class FreezeBody(Body):
    """Why; kept on record."""

    reason: Reason | None = None


class WalletStatus(Model):
    """Whether a wallet admits requests."""

    object: Literal["wallet_status"] = "wallet_status"
    customer_id: str
    status: Annotated[
        Literal["active", "frozen", "killed"],
        Field(description="killed: running requests were cancelled as well."),
    ]
    changed: Annotated[bool, Field(description="false where it was the same before.")]


async def _set(
    operation: Operation, session: Session, customer_id: str, body: FreezeBody
) -> WalletStatus:
    done = await operation(session.backend, customer_id, body.reason)
    return WalletStatus(customer_id=done.customer_id, status=done.status, changed=done.changed)


@router.post(
    "/wallets/{customer_id}/freeze",
    summary="Admit nothing new; running requests may spend what they hold",
)
async def freeze_wallet(
    customer_id: Annotated[WalletId, Path()],
    body: FreezeBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("freezes.write"))],
) -> WalletStatus:
    return await _set(freeze.freeze, session, customer_id, body)


@router.post(
    "/wallets/{customer_id}/kill",
    summary="Freeze a wallet, and cancel its running requests on every gate",
)
async def kill_wallet(
    customer_id: Annotated[WalletId, Path()],
    body: FreezeBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("freezes.write"))],
) -> WalletStatus:
    return await _set(freeze.kill, session, customer_id, body)


@router.post(
    "/wallets/{customer_id}/thaw",
    summary="End a freeze, whether a person or unusual spending has caused it",
)
async def thaw_wallet(
    customer_id: Annotated[WalletId, Path()],
    body: FreezeBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("freezes.write"))],
) -> WalletStatus:
    return await _set(freeze.thaw, session, customer_id, body)
