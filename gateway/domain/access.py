"""Roles of those who use the admin API and the console."""

from typing import Final, Literal

Role = Literal["read", "support", "billing", "admin"]
ROLES: Final[tuple[Role, ...]] = ("read", "support", "billing", "admin")
"""From fewest rights to most. What each may do: `gateway/admin/auth/roles.py`."""
