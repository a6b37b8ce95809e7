"""Packs and reads the facts of a usage event: one flat msgpack map, of which the constant part is packed once.

msgpack specification: a map of at most 15 pairs has a header of one byte, a larger one of three.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

from msgpack import Packer, Unpacker, unpackb

from gateway.domain.usage_facts import RequestLabels, UsageFacts

_pack: Final[Callable[[object], bytes]] = Packer().pack
"""One packer for all: a new one costs more than what it packs."""
LABEL_NAMES: Final = tuple(each.name for each in fields(RequestLabels))
"""The labels, which precede all other facts in this order."""
_MAP_16: Final = b"\xde"
_REQUEST_ID: Final = _pack("request_id")
_NO_RETRY: Final = _pack("retry_of") + _pack(None)


def read_facts(packed: bytes) -> dict[str, Any]:
    """Facts by name; a reservation without any has none."""
    return unpackb(packed) if packed else {}


def labels_end(packed: bytes) -> int | None:
    """Where the labels end in the packed facts of a request that has ended; None for other facts."""
    reader = Unpacker()
    reader.feed(packed)
    if reader.read_map_header() < len(LABEL_NAMES):
        return None
    for name in LABEL_NAMES:
        if reader.unpack() != name:
            return None
        reader.skip()
    end: int = reader.tell()
    return end


class FactsPacker:
    """Packs the facts of requests that share their labels."""

    __slots__ = ("_admitted", "_labels")

    def __init__(self, labels: RequestLabels) -> None:
        pairs = (_pack(name) + _pack(getattr(labels, name)) for name in LABEL_NAMES)
        self._labels = b"".join(pairs)
        count = len(LABEL_NAMES) + 2
        assert count <= 15, "the header below has one byte"
        self._admitted = bytes((0x80 | count,)) + self._labels + _NO_RETRY + _REQUEST_ID

    def pack_admitted(self, facts: UsageFacts) -> bytes:
        """What is known before the request is forwarded: the event of an expiry carries it."""
        if facts.retry_of is None and facts.service_tier is None:
            return self._admitted + _pack(facts.request_id)
        known: dict[str, object] = {"request_id": facts.request_id, "retry_of": facts.retry_of}
        if facts.service_tier is not None:
            known["service_tier"] = facts.service_tier
        return self._joined(known)

    def pack_ended(self, facts: UsageFacts) -> bytes:
        """All facts of a request that has ended."""
        known: dict[str, object] = {
            "request_id": facts.request_id,
            "retry_of": facts.retry_of,
            "upstream_request_id": facts.upstream_request_id,
            "response_model": facts.response_model,
            "http_status": facts.http_status,
            "finish_reason": facts.finish_reason,
            "duration_ms": facts.duration_ms,
            "usage_source": facts.usage_source,
            "flags": facts.flags,
        }
        if facts.service_tier is not None:
            known["service_tier"] = facts.service_tier
        if facts.response_service_tier is not None:
            known["response_service_tier"] = facts.response_service_tier
        if facts.upstream_error is not None:
            known["upstream_error"] = facts.upstream_error
        return self._joined(known)

    def _joined(self, known: dict[str, object]) -> bytes:
        count = len(LABEL_NAMES) + len(known)
        # The pairs of a map of at most 15 follow its header of one byte.
        return _MAP_16 + count.to_bytes(2, "big") + self._labels + _pack(known)[1:]
