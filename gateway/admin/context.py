"""What the handlers of the admin process work on: `request.app.state.context`.

A reload replaces the context as a whole, so a handler reads it once.
"""

import asyncio
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from gateway.admin.auth.attempts import Attempts
from gateway.admin.index.index import Index
from gateway.operations.backend import Backend
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Site:
    """Where browsers and programs reach this process.

    base_url: without a slash at the end, such as http://127.0.0.1:8082
    hosts:    values of the Host header that are accepted, in lower case
    secure:   whether browsers reach it over HTTPS
    """

    base_url: str
    hosts: frozenset[str]
    secure: bool


@dataclass(frozen=True, slots=True)
class AdminContext:
    """One configuration in force.

    backend:            open for as long as the process runs; its actor is nobody who signed in, so
                        use that of the `Session`
    admin_token_digest: SHA-256 of the token in the configuration or in `data_dir`/admin.token, in hex
    attempts:           bounds failed sign-ins
    stopping:           set when the process drains: end streams that would go on
    index:              sums of usage and the list of requests; the same for every configuration
    """

    settings: Settings
    backend: Backend
    site: Site
    admin_token_digest: str
    attempts: Attempts
    stopping: asyncio.Event
    index: Index


def context_of(request: Request) -> AdminContext:
    """The context that is in force."""
    return cast(AdminContext, request.app.state.context)
