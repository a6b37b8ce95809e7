"""The settle journal's records on disk: `length u32, crc32 u32` (little-endian, of the payload),
then the payload, a msgpack map.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgpack

Record = Mapping[str, Any]

_HEAD: Final = struct.Struct("<II")
HEAD_BYTES: Final = _HEAD.size
LARGEST_RECORD_BYTES: Final = 256 << 10
"""Of a payload."""


def pack_record(record: Record) -> bytes:
    """A record as it lies on the disk, its head included."""
    payload: bytes = msgpack.packb(dict(record))
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def read_records(chunk: bytes, limit: int) -> Iterator[tuple[Record, int]]:
    """The first records of a chunk, at most `limit`, with their lengths on disk in bytes.

    Stops at the first one that is incomplete or does not match its checksum.
    """
    at = 0
    for _ in range(limit):
        if at + HEAD_BYTES > len(chunk):
            return
        length, checksum = _HEAD.unpack_from(chunk, at)
        payload = chunk[at + HEAD_BYTES : at + HEAD_BYTES + length]
        if not 0 < length <= LARGEST_RECORD_BYTES or len(payload) < length:
            return
        if zlib.crc32(payload) != checksum:
            return
        yield msgpack.unpackb(payload), HEAD_BYTES + length
        at += HEAD_BYTES + length


def is_torn(rest: bytes) -> bool:
    """Whether what does not parse is only the beginning of a record: a write cut short."""
    if len(rest) < HEAD_BYTES:
        return True
    length: int = _HEAD.unpack_from(rest)[0]
    if not any(rest):
        return True  # zeros: the file had grown, its data had not arrived
    return length <= LARGEST_RECORD_BYTES and HEAD_BYTES + length > len(rest)
