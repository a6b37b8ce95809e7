"""API keys that no configuration file names: create, list, revoke.

A key's secret exists in the answer to `create_key` alone; the ledger keeps its hash.
"""

import secrets
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.domain.reservation import Key
from gateway.domain.suggestions import suggest
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.ledger.codec.stored_keys import StoredKey
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend, ConfiguredKey
from gateway.operations.customers import check_configured
from gateway.operations.documents import timestamp
from gateway.operations.errors import Conflict, NotFound, OutcomeUnknown

PREFIX: Final = "sk-cg-"
_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key as lists show it. Times in Unix ms, None for a key of the configuration."""

    key_id: str
    customer_id: str
    project_id: str | None
    kept_in: Literal["ledger", "configuration"]
    digest: str
    created_at_ms: int | None = None
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class KeyCreated:
    """A new key. secret: what the customer sends; it cannot be read again."""

    secret: str
    entry: KeyEntry


async def create_key(
    backend: Backend,
    customer_id: str,
    project_id: str | None = None,
    key_id: str | None = None,
    reason: str | None = None,
) -> KeyCreated:
    """Create a key, valid at once on every gate. key_id: None takes one from the hash.

    Raises NotFound, Conflict, OutcomeUnknown, LedgerUnavailable.
    """
    configured = backend.configured
    check_configured(configured, customer_id)
    secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    digest = configured.hash_key(secret)
    if digest is None:
        raise Conflict(
            "API keys are disabled: `auth.keys` is false in the configuration, so gates accept none"
        )
    name = key_id or f"k_{digest[:16]}"
    if any(each.key_id == name for each in configured.api_keys()):
        raise Conflict(f"there is a key {name} in the configuration already")
    noted = Noted("key.create", name, customer_id, reason, after={"project_id": project_id})
    async with audited(backend, noted):
        stored = await _add(backend, digest, Key(name, customer_id, project_id))
    return KeyCreated(secret, _of_ledger(stored))


async def list_keys(backend: Backend, customer_id: str | None = None) -> list[KeyEntry]:
    """Keys of one customer or of all: the configuration's, then the ledger's, revoked ones included.

    Raises NotFound, LedgerUnavailable.
    """
    found = [
        _of_configuration(each)
        for each in backend.configured.api_keys()
        if customer_id in (None, each.customer_id)
    ]
    found += map(_of_ledger, await backend.accounts.keys.entries(customer_id))
    if not found and customer_id is not None:
        check_configured(backend.configured, customer_id)
    return found


async def revoke_key(
    backend: Backend, key_id: str, *, kill: bool = False, reason: str | None = None
) -> KeyEntry:
    """Revoke a key permanently: its next paid request is refused on every gate.

    kill: cancel its running requests as well
    Revoking a key again changes nothing. Raises NotFound, Conflict, LedgerUnavailable.
    """
    known = await backend.accounts.keys.entries()
    stored = next((each for each in known if each.key_id == key_id), None)
    if stored is not None:
        action = "key.kill" if kill else "key.revoke"
        async with audited(backend, Noted(action, key_id, stored.customer_id, reason)):
            return _of_ledger(await _revoke(backend, stored, kill))
    for each in backend.configured.api_keys():
        if each.key_id == key_id:
            raise Conflict(
                f"{key_id} is kept in the configuration, under customers.{each.customer_id}: remove it"
                " there. A running gate reloads the file by itself"
            )
    ids = [each.key_id for each in known]
    raise NotFound(f"there is no key {key_id}. {suggest(key_id, ids)}")


async def _add(backend: Backend, digest: str, key: Key) -> StoredKey:
    try:
        return await backend.accounts.keys.add(digest, key.key_id, key.customer_id, key.project_id)
    except ValueError as taken:
        raise Conflict(str(taken)) from taken
    except LedgerUnavailable as error:
        raise OutcomeUnknown(
            f"{error}. Whether the key {key.key_id} was created is not known, and its secret is lost."
            f" When the ledger is reachable again: revoke it (`creditgate key revoke {key.key_id}`) if"
            " the list of keys has it, then create another one"
        ) from error


async def _revoke(backend: Backend, stored: StoredKey, kill: bool) -> StoredKey:
    keys = backend.accounts.keys
    try:
        revoked = await keys.revoke(backend.wallets, stored.key_id, kill=kill)
    except LedgerRefusal as refused:
        if refused.word != "unknown_account":
            raise
        # Its customer has no wallet, so that no gate can have admitted it: none needs to be notified.
        entries = await keys.entries()
        revoked = next((each for each in entries if each.key_id == stored.key_id), None)
    if kill:
        await backend.changes.announce(stored.customer_id)
    return revoked or stored


def key_document(entry: KeyEntry) -> dict[str, Any]:
    """A key as a JSON document, without its secret."""
    created_ms, revoked_ms = entry.created_at_ms, entry.revoked_at_ms
    return {
        "key_id": entry.key_id,
        "customer_id": entry.customer_id,
        "project_id": entry.project_id,
        "kept_in": entry.kept_in,
        "sha256": entry.digest,
        "created_at": None if created_ms is None else timestamp(created_ms),
        "revoked_at": None if revoked_ms is None else timestamp(revoked_ms),
    }


def _of_configuration(key: ConfiguredKey) -> KeyEntry:
    return KeyEntry(key.key_id, key.customer_id, key.project_id, "configuration", key.digest)


def _of_ledger(key: StoredKey) -> KeyEntry:
    return KeyEntry(
        key.key_id,
        key.customer_id,
        key.project_id,
        "ledger",
        key.digest,
        key.created_at_ms,
        key.revoked_at_ms,
    )
