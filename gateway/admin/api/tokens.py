"""API tokens."""

from typing import Annotated, Literal

from fastapi import Depends, Path, Query
from pydantic import Field
from starlette.requests import Request

from gateway.admin.api.errors import ApiError
from gateway.admin.api.models import Body, Line, ListOf, Model, Moment, MomentMs, Paging
from gateway.admin.api.routing import WriteKey, api_router, show_once
from gateway.admin.auth.guard import Session, require
from gateway.admin.auth.roles import OPERATIONS
from gateway.domain.access import Role
from gateway.operations import tokens
from gateway.operations.tokens import NewToken, token_document

router = api_router("Tokens")

TokenId = Annotated[str, Path(pattern=r"^tok_[0-9a-f]{16}$", examples=["tok_5f0c8a1e9b2d7c43"])]
Scope = Annotated[str, Field(json_schema_extra={"enum": sorted(OPERATIONS)})]


class Token(Model):
    """A token, without its secret."""

    object: Literal["token"] = "token"
    id: str
    name: str
    role: Role
    scopes: list[str]
    status: Literal["active", "expired", "revoked"]
    created_at: Moment
    created_by: str
    expires_at: Moment | None
    revoked_at: Moment | None
    last_used_at: Annotated[Moment | None, Field(description="To the minute.")]


class NewTokenBody(Body):
    """A token to make."""

    name: Line
    role: Role
    scopes: Annotated[
        tuple[Scope, ...],
        Field(
            max_length=64,
            description="Operations that it is restricted to; empty for everything that its role"
            " permits.",
        ),
    ] = ()
    expires_at: MomentMs | None = None


class TokenCreated(Token):
    """A token that was made. The secret is shown once."""

    secret: Annotated[
        str | None, Field(description="null in the answer to a repeat of the request.")
    ]


@router.get("/tokens", summary="List tokens")
async def list_tokens(
    query: Annotated[Paging, Query()],
    session: Annotated[Session, Depends(require("tokens.read"))],
) -> ListOf[Token]:
    entries = await tokens.list_tokens(session.backend)
    listed = [Token(**token_document(each)) for each in entries]
    return ListOf[Token].page(listed, query, lambda each: each.id)


@router.post("/tokens", summary="Create a token", status_code=201)
async def create_token(
    body: NewTokenBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("tokens.write"))],
    request: Request,
) -> TokenCreated:
    show_once(request)
    unknown = sorted(set(body.scopes) - OPERATIONS.keys())
    if unknown:
        raise ApiError(
            "parameter_invalid", f"There is no operation {unknown[0]!r}.", param="scopes"
        )
    if session.scopes and not (body.scopes and session.scopes.issuperset(body.scopes)):
        raise ApiError(
            "role_insufficient",
            "A token that is restricted to some operations makes no tokens with others. Send `scopes`"
            f" with some of these: {', '.join(sorted(session.scopes))}.",
            param="scopes",
        )
    made = await tokens.create_token(
        session.backend,
        NewToken(body.name, body.role, frozenset(body.scopes), body.expires_at),
    )
    return TokenCreated(**token_document(made.entry), secret=made.secret)


@router.delete("/tokens/{token_id}", summary="Revoke a token and the sessions it has opened")
async def revoke_token(
    token_id: TokenId,
    _: WriteKey,
    session: Annotated[Session, Depends(require("tokens.write"))],
) -> Token:
    return Token(**token_document(await tokens.revoke_token(session.backend, token_id)))
