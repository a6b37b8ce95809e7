"""An API key in the ledger's directory: a field of `{cg}:keys`, by the hash of the key."""

from dataclasses import dataclass, fields, replace
from typing import Any, Final

from msgpack import packb, unpackb

from gateway.domain.key_terms import KeyTerms, restrictions_of
from gateway.domain.reservation import Key
from gateway.ledger.codec.limit_fields import limit_fields, read_limits

_NO_TERMS: Final = KeyTerms()
_TERMS: Final = tuple(each.name for each in fields(KeyTerms))


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key made by `creditgate key create`; only its hash is kept. Times in Unix ms.

    replaced_by: id of the key that it was rotated to
    """

    digest: str
    key_id: str
    customer_id: str
    project_id: str | None
    created_at_ms: int
    revoked_at_ms: int | None = None
    terms: KeyTerms = _NO_TERMS
    replaced_by: str | None = None

    def as_key(self) -> Key:
        """The key as gates use it."""
        terms = self.terms
        if terms is _NO_TERMS:
            return Key(self.key_id, self.customer_id, self.project_id)
        return Key(
            self.key_id,
            self.customer_id,
            self.project_id,
            limits=terms.limits,
            models=terms.models,
            test=terms.test,
            restrictions=restrictions_of(terms),
        )

    def revoked(self, now_ms: int) -> "StoredKey":
        """The key, revoked now unless it was before."""
        return self if self.revoked_at_ms is not None else replace(self, revoked_at_ms=now_ms)


def pack_key(key: StoredKey) -> bytes:
    """All but the digest, which is the field's name.

    An array of five, and a map of the options behind them where there are any.
    """
    values: list[Any] = [
        *(key.key_id, key.customer_id, key.project_id),
        *(key.created_at_ms, key.revoked_at_ms),
    ]
    options = {
        name: value
        for name in _TERMS
        if (value := getattr(key.terms, name)) != getattr(_NO_TERMS, name)
    }
    if key.terms.limits:
        options["limits"] = limit_fields(key.terms.limits)
    if key.terms.models is not None:
        options["models"] = sorted(key.terms.models)
    if key.replaced_by is not None:
        options["replaced_by"] = key.replaced_by
    if options:
        values.append(options)
    packed: bytes = packb(values)
    return packed


def read_key(digest: bytes, packed: bytes) -> StoredKey:
    """A field and its value."""
    values = unpackb(packed)
    if len(values) == 5:
        return StoredKey(digest.decode(), *values)
    plain, options = StoredKey(digest.decode(), *values[:5]), values[5]
    replaced_by = options.pop("replaced_by", None)
    if "limits" in options:
        options["limits"] = read_limits(options["limits"])
    if "models" in options:
        options["models"] = frozenset(options["models"])
    options["networks"] = tuple(options.get("networks", ()))
    # An option that this release does not know may limit the key: it must not be overlooked.
    return replace(plain, terms=KeyTerms(**options), replaced_by=replaced_by)
