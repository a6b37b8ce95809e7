"""`mode show|set|reset`: whether requests that cannot be paid are refused, while gates run."""

import secrets
from dataclasses import dataclass
from typing import Any

from gateway.domain.customers import Mode, owner_of
from gateway.domain.modes import Modes, SetMode
from gateway.ledger.modes import ANNOUNCED
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend
from gateway.operations.customers import wallet_of
from gateway.operations.documents import timestamp
from gateway.operations.errors import Conflict


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A mode to set. customer_id: None for everything. mode: None for what the configuration says"""

    customer_id: str | None
    mode: Mode | None
    reason: str


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """What is in force after a change. changed: False where it was set already

    kept: customers whose own mode a change of everything does not reach
    """

    customer_id: str | None
    mode: Mode
    changed: bool
    kept: int = 0


async def show_modes(backend: Backend) -> Modes:
    """What is configured, and what is set over it. Raises LedgerUnavailable."""
    found = await backend.accounts.modes.read()
    configured = backend.configured.modes
    return Modes(configured.everything, configured.customers, found.everything, found.customers)


async def change_mode(backend: Backend, change: ModeChange) -> ModeChanged:
    """Set a mode, or return to what the configuration says; every worker follows within a second.

    A customer who enters shadow mode gets a shadow wallet at once, with what the live one has; where
    everything enters it, the first request of each customer does that.
    Raises NotFound, Conflict, LedgerUnavailable.
    """
    customer_id, mode = change.customer_id, change.mode
    if customer_id is not None:
        owner = owner_of(customer_id)
        if owner != customer_id:
            raise Conflict(f"{customer_id} is a wallet of {owner}: set the mode of {owner}")
        await wallet_of(backend, customer_id)
    before = await show_modes(backend)
    known = before.set_everything
    if customer_id is not None:
        known = before.set_customers.get(customer_id)
    if mode == (None if known is None else known.mode):
        return _changed(before, customer_id, changed=False)
    noted = Noted(
        "mode.set" if mode is not None else "mode.reset",
        customer_id or "everything",
        customer_id or "",
        change.reason,
        before={"mode": None if known is None else known.mode},
        after={"mode": mode},
    )
    async with audited(backend, noted):
        await _write(backend, change)
    await backend.changes.announce(ANNOUNCED)
    if known is not None and known.mode == "shadow":
        await backend.shadow_wallets.forget(known.switch)
    return _changed(await show_modes(backend), customer_id, changed=True)


async def _write(backend: Backend, change: ModeChange) -> None:
    store, customer_id, mode = backend.accounts.modes, change.customer_id, change.mode
    if mode is None:
        await store.reset(customer_id)
        return
    now_ms = await store.now_ms()
    switch = f"{now_ms:x}-{secrets.token_hex(4)}"
    actor = str(backend.actor)
    await store.set(customer_id, SetMode(mode, switch, now_ms, actor, change.reason))
    if mode == "shadow" and customer_id is not None:
        await backend.shadow_wallets.open(customer_id, switch)


def modes_document(modes: Modes) -> dict[str, Any]:
    """The modes as a JSON document: of everything, and of each customer that has another source."""
    names = sorted(modes.customers.keys() | modes.set_customers.keys())
    everything = modes.set_everything
    return {
        "everything": _document(modes.everything if everything is None else None, everything),
        "customers": {
            name: _document(modes.of(name)[0], modes.set_customers.get(name, everything))
            for name in names
        },
    }


def mode_document(changed: ModeChanged) -> dict[str, Any]:
    """A change as a JSON document."""
    return {
        "customer_id": changed.customer_id,
        "mode": changed.mode,
        "changed": changed.changed,
        "customers_with_their_own": changed.kept,
    }


def _changed(modes: Modes, customer_id: str | None, *, changed: bool) -> ModeChanged:
    if customer_id is not None:
        return ModeChanged(customer_id, modes.of(customer_id)[0], changed)
    everything = modes.set_everything
    mode = modes.everything if everything is None else everything.mode
    return ModeChanged(None, mode, changed, len(modes.set_customers))


def _document(configured: Mode | None, found: SetMode | None) -> dict[str, Any]:
    if found is None:
        return {"mode": configured, "source": "configuration"}
    return {
        "mode": found.mode,
        "source": "set",
        "since": timestamp(found.since_ms),
        "actor": found.actor,
        "reason": found.reason,
    }
