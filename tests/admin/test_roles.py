"""The role table, and that every route asks for what the table says."""

from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from gateway.admin.app import API, PAGES
from gateway.admin.auth.roles import OPERATIONS, may
from gateway.domain.access import ROLES, Role
from tests.support.console import Console

OPEN = {
    *("/console/sign-in", "/console/oidc/start", "/console/oidc/callback"),
    *("/console", "/console/theme"),
}
"""Paths of routes that nobody has to sign in for."""

TABLE = """
                    read  support  billing  admin
wallets.read        yes   yes      yes      yes
customers.read      yes   yes      yes      yes
keys.read           yes   yes      yes      yes
grants.read         yes   yes      yes      yes
payments.read       yes   yes      yes      yes
limits.read         yes   yes      yes      yes
prices.read         yes   yes      yes      yes
holds.read          yes   yes      yes      yes
events.read         yes   yes      yes      yes
decisions.read      yes   yes      yes      yes
requests.read       yes   yes      yes      yes
usage.read          yes   yes      yes      yes
statements.read     yes   yes      yes      yes
gates.read          yes   yes      yes      yes
modes.read          yes   yes      yes      yes
signals.read        yes   yes      yes      yes
overview.read       yes   yes      yes      yes
exports.read        -     -        yes      yes
audit.read          -     -        yes      yes
verify.run          -     -        yes      yes
tokens.read         -     -        -        yes
freezes.write       -     yes      yes      yes
keys.revoke         -     yes      yes      yes
holds.write         -     yes      yes      yes
customers.write     -     -        yes      yes
keys.write          -     -        yes      yes
limits.write        -     -        yes      yes
grants.write        -     -        yes      yes
payments.write      -     -        yes      yes
refunds.write       -     -        yes      yes
adjustments.write   -     -        yes      yes
statements.write    -     -        yes      yes
prices.write        -     -        -        yes
modes.write         -     -        -        yes
signals.write       -     -        -        yes
exports.write       -     -        -        yes
webhooks.write      -     -        -        yes
tokens.write        -     -        -        yes
"""
"""What is meant, written by hand: a change of rights has to be made here, too."""


def meant() -> dict[str, set[str]]:
    header, *rows = TABLE.strip().splitlines()
    roles = header.split()
    return {
        name: {role for role, said in zip(roles, marks, strict=True) if said == "yes"}
        for name, *marks in map(str.split, rows)
    }


def routes() -> Iterator[APIRoute]:
    for router in (*API, *PAGES):
        for route in router.routes:
            if isinstance(route, APIRoute):
                yield route


def operation_of(route: BaseRoute) -> str | None:
    assert isinstance(route, APIRoute)
    named = [getattr(each.call, "operation", None) for each in route.dependant.dependencies]
    found = [name for name in named if name is not None]
    assert len(found) <= 1, f"{route.path} asks for {found}"
    return found[0] if found else None


def test_the_table_is_what_is_meant() -> None:
    assert {name: set(roles) for name, roles in OPERATIONS.items()} == meant()


def test_every_route_asks_for_one_operation() -> None:
    missing = {route.path for route in routes() if operation_of(route) is None}
    assert missing <= OPEN


def test_a_scope_restricts_a_role_and_never_extends_it() -> None:
    assert may("billing", "grants.write", frozenset({"grants.write"}))
    assert not may("billing", "refunds.write", frozenset({"grants.write"}))
    assert not may("read", "grants.write", frozenset({"grants.write"}))


@pytest.mark.parametrize("role", ROLES)
async def test_every_route_lets_pass_whom_the_table_names(console: Console, role: Role) -> None:
    """Sent without a body and to things that do not exist: only 403 and not 403 matter."""
    headers = await console.as_role(role)
    for route in routes():
        operation = operation_of(route)
        if operation is None:
            continue
        for method in sorted(route.methods or ()):
            path = route.path.replace("{", "").replace("}", "")
            async with console.bare.stream(method, path, headers=headers) as answer:
                allowed = answer.status_code != 403
            assert allowed is may(role, operation), f"{role} {method} {route.path}"
            console.bare.cookies.clear()  # results are shown through one
            assert (await console.bare.request(method, path)).status_code in (401, 303)
