"""A refusal as it is kept for `why`: the msgpack array of its fields, in their order."""

from dataclasses import dataclass
from typing import Final

from msgpack import packb, unpackb

from gateway.domain.customers import Mode


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """One refusal, as the flow knew it. Amounts in nano-credits.

    reason:         a DenyReason, or the kind of the gate's own refusal (bad_key, unknown_model, …)
    status:         HTTP status that was answered
    estimate_nano:  what would have been held; None when it did not come to an estimate
    limit:          which limit refused, in words, for limits
    mode:           shadow: it would have been refused, and ran
    """

    request_id: str
    reason: str
    status: int
    customer_id: str | None = None
    key_id: str | None = None
    route: str | None = None
    model: str | None = None
    estimate_nano: int | None = None
    available_nano: int | None = None
    balance_nano: int | None = None
    limit: str | None = None
    message: str = ""
    mode: Mode = "enforce"


_FIELDS: Final = tuple(RefusedRequest.__dataclass_fields__)


def pack_refusal(refused: RefusedRequest) -> bytes:
    """All fields, None included."""
    packed: bytes = packb([getattr(refused, name) for name in _FIELDS])
    return packed


def read_refusal(packed: bytes) -> RefusedRequest:
    """Fields are appended by later releases, so what this one does not know is left out."""
    return RefusedRequest(*unpackb(packed)[: len(_FIELDS)])
