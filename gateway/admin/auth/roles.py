"""What each role may do: the table that `require` looks up and the documentation prints.

An operation is named RESOURCE.VERB. Every route of the API and every page names one.
"""

from collections.abc import Mapping
from typing import Final

from gateway.domain.access import Role

_EVERYONE: Final = frozenset[Role]({"read", "support", "billing", "admin"})
_SUPPORT: Final = frozenset[Role]({"support", "billing", "admin"})
_BILLING: Final = frozenset[Role]({"billing", "admin"})
_ADMIN: Final = frozenset[Role]({"admin"})

OPERATIONS: Final[Mapping[str, frozenset[Role]]] = {
    # Looking. Support answers customers, so it sees what they sent and were charged.
    "wallets.read": _EVERYONE,
    "customers.read": _EVERYONE,
    "keys.read": _EVERYONE,
    "grants.read": _EVERYONE,
    "payments.read": _EVERYONE,
    "limits.read": _EVERYONE,
    "prices.read": _EVERYONE,
    "holds.read": _EVERYONE,
    "events.read": _EVERYONE,
    "decisions.read": _EVERYONE,
    "requests.read": _EVERYONE,
    "usage.read": _EVERYONE,
    "statements.read": _EVERYONE,
    "gates.read": _EVERYONE,
    "modes.read": _EVERYONE,
    "signals.read": _EVERYONE,
    "overview.read": _EVERYONE,
    "exports.read": _BILLING,
    "audit.read": _BILLING,
    "verify.run": _BILLING,
    "tokens.read": _ADMIN,
    # Stopping damage: support may stop spending, not start it.
    "freezes.write": _SUPPORT,
    "keys.revoke": _SUPPORT,
    "holds.write": _SUPPORT,
    # Customers and their money.
    "customers.write": _BILLING,
    "keys.write": _BILLING,
    "limits.write": _BILLING,
    "grants.write": _BILLING,
    "payments.write": _BILLING,
    "refunds.write": _BILLING,
    "adjustments.write": _BILLING,
    "statements.write": _BILLING,
    # What concerns every customer, or other people's rights.
    "prices.write": _ADMIN,
    "modes.write": _ADMIN,
    "signals.write": _ADMIN,
    "exports.write": _ADMIN,
    "webhooks.write": _ADMIN,
    "tokens.write": _ADMIN,
}


def may(role: Role, operation: str, scopes: frozenset[str] = frozenset()) -> bool:
    """Whether a role may do this. scopes: operations that its token is restricted to, if any.

    Raises KeyError for an operation that the table does not have.
    """
    return role in OPERATIONS[operation] and (not scopes or operation in scopes)
