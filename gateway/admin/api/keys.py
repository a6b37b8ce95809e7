"""API keys of customers. The secret is in the answer to a creation or a rotation, and nowhere else."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query
from pydantic import Field
from starlette.requests import Request

from gateway.admin.api.limit_models import LIMITS_MOST, Limit, OwnLimitBody, limits_of, read_limits
from gateway.admin.api.models import (
    NUMBER,
    Body,
    KeyId,
    Line,
    ListOf,
    Model,
    Moment,
    MomentMs,
    Paging,
    ProjectId,
    Reason,
    RecordId,
)
from gateway.admin.api.routing import WriteKey, api_router, show_once
from gateway.admin.auth.guard import Session, require
from gateway.domain.key_terms import KeyTerms
from gateway.operations import keys
from gateway.operations.backend import Backend
from gateway.operations.keys import KeyEntry, NewKey, key_document

router = api_router("Keys")

GRACE_S_MOST = 90 * 86_400


class Key(Model):
    """An API key, without its secret."""

    object: Literal["key"] = "key"
    id: Annotated[str, Field(examples=["k_5f0c8a1e9b2d7c43"])]
    customer_id: str
    project_id: str | None
    name: str | None
    kept_in: Literal["configuration", "ledger"]
    shown: Annotated[
        str | None, Field(description="Its first and last characters.", examples=["sk-cg-…9fQx"])
    ]
    livemode: Annotated[bool, Field(description="false for a test key, which has a wallet apart.")]
    models: Annotated[list[str] | None, Field(description="null for all of the customer's.")]
    limits: list[Limit]
    networks: Annotated[list[str], Field(description="Where it may be used from; empty: anywhere.")]
    created_at: Moment | None
    expires_at: Moment | None
    revoked_at: Moment | None
    last_used_at: Annotated[Moment | None, Field(description="Some seconds late.")]
    replaced_by: Annotated[str | None, Field(description="The key that it was rotated to.")]


class KeyCreated(Key):
    """A key that was created. The secret is shown once."""

    secret: Annotated[
        str | None, Field(description="null in the answer to a repeat of the request.")
    ]


class NewKeyBody(Body):
    """A key to create."""

    customer_id: RecordId
    id: Annotated[KeyId | None, Field(description="Taken from its hash if omitted.")] = None
    project_id: ProjectId | None = None
    name: Line | None = None
    expires_at: MomentMs | None = None
    models: Annotated[tuple[Line, ...], Field(max_length=1000)] | None = None
    limits: Annotated[tuple[OwnLimitBody, ...], Field(max_length=LIMITS_MOST)] = ()
    networks: Annotated[
        tuple[
            Annotated[str, Field(min_length=2, max_length=43, pattern=r"^[0-9a-fA-F.:/]+$")], ...
        ],
        Field(max_length=50, description="CIDRs.", examples=[["10.0.0.0/8"]]),
    ] = ()
    livemode: Annotated[bool, Field(strict=True)] = True
    reason: Reason | None = None


class RotationBody(Body):
    """How a key is replaced."""

    grace_s: Annotated[
        int,
        Field(
            ge=0,
            le=GRACE_S_MOST,
            description="Seconds for which the old key stays valid; 0 revokes it at once.",
        ),
        NUMBER,
    ] = keys.GRACE_MS // 1000
    reason: Reason | None = None


class RevocationBody(Body):
    """How a key ends."""

    kill: Annotated[bool, Field(strict=True, description="Cancel its running requests, too.")] = (
        False
    )
    reason: Reason | None = None


class KeysQuery(Paging):
    """Which keys are wanted."""

    customer_id: RecordId


@router.get("/keys", summary="List the keys of a customer, revoked ones included")
async def list_keys(
    query: Annotated[KeysQuery, Query()],
    session: Annotated[Session, Depends(require("keys.read"))],
) -> ListOf[Key]:
    found = await keys_of(session.backend, query.customer_id)
    return ListOf[Key].page(found, query, lambda each: each.id)


@router.post("/keys", summary="Create a key, valid at once on every gate", status_code=201)
async def create_key(
    body: NewKeyBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("keys.write"))],
    request: Request,
) -> KeyCreated:
    show_once(request)
    terms = KeyTerms(
        body.name,
        body.expires_at,
        None if body.models is None else frozenset(body.models),
        read_limits(body.limits, "key"),
        body.networks,
        not body.livemode,
    )
    new = NewKey(body.customer_id, body.project_id, body.id, terms)
    made = await keys.create_key(session.backend, new, body.reason)
    return KeyCreated(**_document(made.entry), secret=made.secret)


@router.get("/keys/{key_id}", summary="Retrieve a key")
async def retrieve_key(
    key_id: Annotated[KeyId, Path()],
    session: Annotated[Session, Depends(require("keys.read"))],
) -> Key:
    return Key(**_document(await keys.get_key(session.backend, key_id)))


@router.post(
    "/keys/{key_id}/rotate", summary="Create a key with the same terms; the old one expires"
)
async def rotate_key(
    key_id: Annotated[KeyId, Path()],
    body: RotationBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("keys.write"))],
    request: Request,
) -> KeyCreated:
    show_once(request)
    made = await keys.rotate_key(session.backend, key_id, body.grace_s * 1000, body.reason)
    return KeyCreated(**_document(made.entry), secret=made.secret)


@router.post("/keys/{key_id}/revoke", summary="Revoke a key permanently, on every gate")
async def revoke_key(
    key_id: Annotated[KeyId, Path()],
    body: RevocationBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("keys.revoke"))],
) -> Key:
    done = await keys.revoke_key(session.backend, key_id, kill=body.kill, reason=body.reason)
    return Key(**_document(done))


async def keys_of(backend: Backend, customer_id: str) -> list[Key]:
    """A customer's keys. Raises NotFound, LedgerUnavailable."""
    return [Key(**_document(each)) for each in await keys.list_keys(backend, customer_id)]


def _document(entry: KeyEntry) -> dict[str, Any]:
    own = key_document(entry)
    return own | {"id": entry.key_id, "limits": limits_of(entry.terms.limits)}
