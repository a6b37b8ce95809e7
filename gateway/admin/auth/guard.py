"""STAND-IN until the admin helper lands: everybody is an admin."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request

from gateway.admin.auth.role_stub import Role
from gateway.admin.auth.roles import OPERATIONS, may
from gateway.domain.actors import Actor
from gateway.operations.backend import Backend


@dataclass(frozen=True, slots=True)
class Session:
    """An authenticated caller."""

    actor: Actor
    role: Role
    scopes: frozenset[str]
    backend: Backend
    csrf: str | None

    def may(self, operation: str) -> bool:
        return may(self.role, operation, self.scopes)


def require(operation: str) -> Callable[..., Awaitable[Session]]:
    """A dependency that lets callers with the right role pass."""
    _ = OPERATIONS[operation]

    async def authorise(request: Request) -> Session:
        context = request.app.state.context
        actor = Actor("user", "ops@example.com")
        return Session(actor, "admin", frozenset(), context.backend, "stub-csrf")

    return authorise
