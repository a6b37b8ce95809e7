"""STAND-IN: what the admin application works on."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request

from gateway.operations.backend import Backend
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class AdminContext:
    """Opened once, for as long as the process runs."""

    settings: Settings
    backend: Backend
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def context_of(request: Request) -> AdminContext:
    """The context that is in force."""
    return cast(AdminContext, request.app.state.context)
