"""An API key in the ledger's directory: a field of `{cg}:keys`, by the hash of the key."""

from dataclasses import dataclass

from msgpack import packb, unpackb


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key made by `creditgate key create`; only its hash is kept. Times in Unix ms."""

    digest: str
    key_id: str
    customer_id: str
    project_id: str | None
    created_at_ms: int
    revoked_at_ms: int | None = None


def pack_key(key: StoredKey) -> bytes:
    """All but the digest, which is the field's name."""
    packed: bytes = packb(
        [key.key_id, key.customer_id, key.project_id, key.created_at_ms, key.revoked_at_ms]
    )
    return packed


def read_key(digest: bytes, packed: bytes) -> StoredKey:
    """A field and its value."""
    return StoredKey(digest.decode(), *unpackb(packed))
