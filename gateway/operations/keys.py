"""API keys that no configuration file names: create, list, rotate, revoke.

A key's secret exists in the answer to `create_key` and `rotate_key` alone; the ledger keeps its hash.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from gateway.domain.customers import wallet_id
from gateway.domain.key_terms import KeyTerms
from gateway.domain.suggestions import suggest
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.stored_keys import StoredKey
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend, ConfiguredKey
from gateway.operations.customer_changes import open_test_wallet
from gateway.operations.customer_check import check_key_terms
from gateway.operations.customers import find_customer, limit_document
from gateway.operations.documents import timestamp
from gateway.operations.errors import Conflict, NotFound, OutcomeUnknown

PREFIX: Final = "sk-cg-"
TEST_PREFIX: Final = "sk-test-"
LAST_CHARS: Final = 4
"""Shown of a key, so that people recognize it."""
DAY_MS: Final = 86_400_000
GRACE_MS: Final = DAY_MS
"""How long a rotated key stays valid unless another grace is given."""
_SECRET_BYTES: Final = 32
_KNOWN_MOST: Final = 1000
_NO_TERMS: Final = KeyTerms()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to create. key_id: None takes one from the hash. terms: without `last_four`"""

    customer_id: str
    project_id: str | None = None
    key_id: str | None = None
    terms: KeyTerms = _NO_TERMS


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key as lists show it. Times in Unix ms; created_at_ms is None for a key of the configuration.

    last_used_at_ms: a few seconds late; None when it was not used, or is not known
    """

    key_id: str
    customer_id: str
    project_id: str | None
    kept_in: Literal["ledger", "configuration"]
    digest: str
    created_at_ms: int | None = None
    revoked_at_ms: int | None = None
    terms: KeyTerms = _NO_TERMS
    replaced_by: str | None = None
    last_used_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class KeyCreated:
    """A new key. secret: what the customer sends; it cannot be read again."""

    secret: str = field(repr=False)
    entry: KeyEntry


async def create_key(backend: Backend, new: NewKey, reason: str | None = None) -> KeyCreated:
    """Create a key, valid at once on every gate.

    Raises NotFound, Conflict, OutcomeUnknown, LedgerUnavailable.
    """
    configured = backend.configured
    await find_customer(backend, new.customer_id)
    await check_key_terms(backend, new.terms)
    prefix = TEST_PREFIX if new.terms.test else PREFIX
    secret = prefix + secrets.token_urlsafe(_SECRET_BYTES)
    digest = configured.hash_key(secret)
    if digest is None:
        raise Conflict(
            "API keys are disabled: `auth.keys` is false in the configuration, so gates accept none"
        )
    name = new.key_id or f"k_{digest[:16]}"
    if any(each.key_id == name for each in configured.api_keys()):
        raise Conflict(f"there is a key {name} in the configuration already")
    if new.key_id and await backend.accounts.keys.by_id(name) is not None:
        raise Conflict(f"there is a key {name} already")
    if new.terms.test:
        await open_test_wallet(backend, new.customer_id)
    terms = replace(new.terms, last_four=secret[-LAST_CHARS:])
    key = StoredKey(digest, name, new.customer_id, new.project_id, 0, terms=terms)
    after = {"project_id": new.project_id, **_noted_terms(new.terms)}
    async with audited(backend, Noted("key.create", name, new.customer_id, reason, after=after)):
        stored = await _add(backend, key)
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
        await find_customer(backend, customer_id)
    return await _with_uses(backend, found)


async def get_key(backend: Backend, key_id: str) -> KeyEntry:
    """One key, also a revoked one. Raises NotFound, LedgerUnavailable."""
    stored = await backend.accounts.keys.by_id(key_id)
    configured = (each for each in backend.configured.api_keys() if each.key_id == key_id)
    entry = _of_ledger(stored) if stored else next(map(_of_configuration, configured), None)
    if entry is None:
        raise await _not_found(backend, key_id)
    [found] = await _with_uses(backend, [entry])
    return found


async def rotate_key(
    backend: Backend, key_id: str, grace_ms: int = GRACE_MS, reason: str | None = None
) -> KeyCreated:
    """Create a key with the same terms; the old one expires after the grace, 0 revokes it at once.

    Raises NotFound, Conflict, OutcomeUnknown, LedgerUnavailable.
    """
    old = await _stored(backend, key_id)
    if old.revoked_at_ms is not None:
        raise Conflict(f"the key {key_id} is revoked: create another one")
    if old.replaced_by is not None:
        raise Conflict(f"the key {key_id} was rotated already, to {old.replaced_by}")
    now_ms = await backend.accounts.now_ms()
    expires_at_ms = old.terms.expires_at_ms
    if expires_at_ms is not None and expires_at_ms <= now_ms:
        raise Conflict(f"the key {key_id} has expired: create another one")
    terms = replace(old.terms, last_four="")
    created = await create_key(
        backend, NewKey(old.customer_id, old.project_id, terms=terms), reason
    )
    ends_ms = now_ms + grace_ms if expires_at_ms is None else min(now_ms + grace_ms, expires_at_ms)

    def replaced(now: StoredKey) -> StoredKey:
        """The key as it is at this moment: it may have been revoked meanwhile, and stays so."""
        if now.replaced_by is not None:
            raise Conflict(f"the key {key_id} was rotated already, to {now.replaced_by}")
        ending = now.revoked(now_ms)
        if grace_ms:
            ending = replace(now, terms=replace(now.terms, expires_at_ms=ends_ms))
        return replace(ending, replaced_by=created.entry.key_id)

    after = {"replaced_by": created.entry.key_id, "expires_at": timestamp(ends_ms)}
    noted = Noted("key.rotate", key_id, old.customer_id, reason, after=after)
    async with audited(backend, noted):
        await backend.accounts.keys.change(backend.wallets, old, replaced)
    await backend.changes.announce(_account_of(old))
    return created


async def revoke_key(
    backend: Backend, key_id: str, *, kill: bool = False, reason: str | None = None
) -> KeyEntry:
    """Revoke a key permanently: its next paid request is refused on every gate.

    kill: cancel its running requests as well
    Revoking a key again changes nothing. Raises NotFound, Conflict, LedgerUnavailable.
    """
    stored = await _stored(backend, key_id)
    action = "key.kill" if kill else "key.revoke"
    async with audited(backend, Noted(action, key_id, stored.customer_id, reason)):
        revoked = await backend.accounts.keys.revoke(backend.wallets, key_id, kill=kill)
    await backend.changes.announce(_account_of(stored))
    return _of_ledger(revoked or stored)


def shown_of_key(entry: KeyEntry) -> str | None:
    """The prefix and the last characters of a key, for people; None when they are not known."""
    prefix = TEST_PREFIX if entry.terms.test else PREFIX
    return f"{prefix}…{entry.terms.last_four}" if entry.terms.last_four else None


def key_document(entry: KeyEntry) -> dict[str, Any]:
    """A key as a JSON document, without its secret."""
    terms = entry.terms
    return {
        "key_id": entry.key_id,
        "customer_id": entry.customer_id,
        "project_id": entry.project_id,
        "name": terms.name,
        "kept_in": entry.kept_in,
        "shown": shown_of_key(entry),
        "sha256": entry.digest,
        "livemode": not terms.test,
        "models": None if terms.models is None else sorted(terms.models),
        "limits": [limit_document(limit) for limit in terms.limits],
        "networks": list(terms.networks),
        "created_at": _moment(entry.created_at_ms),
        "expires_at": _moment(terms.expires_at_ms),
        "revoked_at": _moment(entry.revoked_at_ms),
        "last_used_at": _moment(entry.last_used_at_ms),
        "replaced_by": entry.replaced_by,
    }


async def _stored(backend: Backend, key_id: str) -> StoredKey:
    """A key of the ledger. Raises NotFound, and Conflict for one of the configuration."""
    stored = await backend.accounts.keys.by_id(key_id)
    if stored is not None:
        return stored
    for each in backend.configured.api_keys():
        if each.key_id == key_id:
            raise Conflict(
                f"{key_id} is kept in the configuration, under customers.{each.customer_id}: remove it"
                " there. A running gate reloads the file by itself"
            )
    raise await _not_found(backend, key_id)


async def _add(backend: Backend, key: StoredKey) -> StoredKey:
    try:
        return await backend.accounts.keys.add(
            key.digest, key.key_id, key.customer_id, key.project_id, key.terms
        )
    except ValueError as taken:
        raise Conflict(str(taken)) from taken
    except LedgerUnavailable as error:
        raise OutcomeUnknown(
            f"{error}. Whether the key {key.key_id} was created is not known, and its secret is lost."
            f" When the ledger is reachable again: revoke it (`creditgate key revoke {key.key_id}`) if"
            " the list of keys has it, then create another one"
        ) from error


async def _not_found(backend: Backend, key_id: str) -> NotFound:
    """The error, with a hint among a bounded number of keys."""
    known = [each.key_id for each in backend.configured.api_keys()]
    # A creation that failed may have left the id without a key.
    known += [each for each in await backend.accounts.keys.some_ids(_KNOWN_MOST) if each != key_id]
    return NotFound(f"there is no key {key_id}. {suggest(key_id, known)}")


async def _with_uses(backend: Backend, entries: Iterable[KeyEntry]) -> list[KeyEntry]:
    found: Sequence[KeyEntry] = list(entries)
    used = await backend.accounts.key_uses.read([each.key_id for each in found])
    return [replace(each, last_used_at_ms=used.get(each.key_id)) for each in found]


def _account_of(key: StoredKey) -> str:
    return wallet_id(key.customer_id, "test" if key.terms.test else "live")


def _noted_terms(terms: KeyTerms) -> dict[str, Any]:
    """What the audit log says of a key's options."""
    said = {
        "expires_at": _moment(terms.expires_at_ms),
        "models": None if terms.models is None else sorted(terms.models),
        "limits": [limit_document(limit) for limit in terms.limits],
        "networks": list(terms.networks),
        "test": terms.test,
    }
    return {name: value for name, value in said.items() if value}


def _moment(unix_ms: int | None) -> str | None:
    return None if unix_ms is None else timestamp(unix_ms)


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
        key.terms,
        key.replaced_by,
    )
