"""How routes of the API are declared, and what they have in common: documented errors, and writes that
are done once per `Idempotency-Key`.

A repeat of a write gets the recorded answer of the first for a day. The key belongs to who sent it: two
tokens may use the same. Answers that say nothing about the request itself (5xx) are not recorded.
"""

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Header
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.answers import api_error_of, error_response
from gateway.admin.api.errors import ApiError
from gateway.admin.api.models import ErrorAnswer
from gateway.admin.auth.guard import SAFE_METHODS
from gateway.admin.auth.identity import identify
from gateway.admin.context import context_of
from gateway.ledger.codec.admin_records import RecordedWrite
from gateway.operations.idempotency import KEY_CHARS_MOST, is_idempotency_key, new_idempotency_key

PREFIX: Final = "/api/v1"
KEY_HEADER: Final = "idempotency-key"
REPLAYED_HEADER: Final = "idempotent-replayed"
_RECORDED_BYTES_MOST: Final = 262_144
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "default": {"model": ErrorAnswer, "description": "An error; see the table of codes."}
}

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class OnceRoute(APIRoute):
    """A route whose writes obey `Idempotency-Key`."""

    def get_route_handler(self) -> Handler:
        """See APIRoute."""
        handle = super().get_route_handler()

        async def once(request: Request) -> Response:
            key = request.headers.get(KEY_HEADER)
            if key is None or request.method in SAFE_METHODS:
                return await handle(request)
            if not is_idempotency_key(key):
                raise ApiError("idempotency_key_invalid", param="Idempotency-Key")
            return await _once(request, key, handle)

        return once


async def _once(request: Request, key: str, handle: Handler) -> Response:
    context = context_of(request)
    identity = await identify(context, request)
    name = hashlib.sha256(f"{identity.actor}\n{key}".encode()).hexdigest()
    asked = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    digest = hashlib.sha256(asked + await request.body()).digest()
    writes = context.backend.accounts.recorded_writes
    earlier = await writes.begin(name, digest)
    if earlier is not None:
        return _replay(earlier, digest)
    try:
        answer = await _answer(request, handle)
    except BaseException:
        await writes.forget(name)
        raise
    body = bytes(answer.body)
    if getattr(request.state, "shown_once", False):
        body = orjson.dumps(orjson.loads(body) | {"secret": None})
    kept = RecordedWrite(digest, answer.status_code, answer.media_type or "", body)
    # A refused credential or right is no answer to the request either.
    if answer.status_code >= 500 or answer.status_code in (401, 403, 429):
        await writes.forget(name)
    elif len(body) > _RECORDED_BYTES_MOST:
        await writes.finish(name, replace(kept, body=b""))
    else:
        await writes.finish(name, kept)
    return answer


def show_once(request: Request) -> None:
    """Say that the answer has a `secret`, which must not be recorded: a repeat gets null for it."""
    request.state.shown_once = True


async def _answer(request: Request, handle: Handler) -> Response:
    """The handler's answer; of a refusal the answer that it becomes."""
    try:
        return await handle(request)
    except Exception as error:
        refused = api_error_of(error)
        if refused.code == "internal_error":
            raise
        return error_response(request, refused)


def _replay(earlier: RecordedWrite, digest: bytes) -> Response:
    if earlier.request_digest != digest:
        raise ApiError("idempotency_key_reused", param="Idempotency-Key")
    if earlier.status is None:
        raise ApiError("idempotency_key_in_use", param="Idempotency-Key", retry_after_s=1)
    headers = {REPLAYED_HEADER: "true"}
    return Response(earlier.body, earlier.status, headers, media_type=earlier.content_type)


async def write_key(
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Makes repeats of this request harmless: they get the answer of the first.",
            min_length=1,
            max_length=KEY_CHARS_MOST,
            pattern=r"^[ -~]+$",
        ),
    ] = None,
) -> str:
    """The request's idempotency key, or a fresh one: operations have one in any case."""
    return idempotency_key or new_idempotency_key("api")


WriteKey = Annotated[str, Depends(write_key)]
"""Every write has a parameter of this type."""


def api_router(tag: str) -> APIRouter:
    """A router for one resource."""
    return APIRouter(prefix=PREFIX, tags=[tag], route_class=OnceRoute, responses=_ERRORS)
