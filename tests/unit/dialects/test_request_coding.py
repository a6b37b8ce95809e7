"""Coded bodies of requests: decoded strictly, in bounded pieces."""

import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.content_encoding import (
    MAX_BLOCKS,
    MAX_MEMBERS,
    BadCoding,
    decode_pieces,
    knows_coding,
)

LARGEST_PIECE_BYTES = 128 * 1024
MIXED = bytes(range(256)) * 256


def bare_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def streamed_zstd(data: bytes) -> bytes:
    """As a client writes it that does not know the size: no content size, a checksum."""
    stream = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
    return bytes(stream.compress(data) + stream.flush())


WAYS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    ("deflate", zlib.compress),
    ("deflate", bare_deflate),
    ("br", brotli.compress),
    ("zstd", zstandard.compress),
    ("zstd", streamed_zstd),
    ("zstd", lambda data: zstandard.compress(data[:7]) + streamed_zstd(data[7:])),
]


@given(st.sampled_from(WAYS), st.binary(max_size=400), st.integers(1, 2000))
def test_what_was_coded_is_decoded(
    way: tuple[str, Callable[[bytes], bytes]], unit: bytes, times: int
) -> None:
    coding, encode = way
    data = unit * times
    pieces = list(decode_pieces(encode(data), coding))
    assert b"".join(pieces) == data
    assert max(map(len, pieces), default=0) <= LARGEST_PIECE_BYTES


@given(st.sampled_from(WAYS), st.binary(max_size=300), st.data())
def test_a_part_of_it_is_refused(
    way: tuple[str, Callable[[bytes], bytes]], data: bytes, draw: st.DataObject
) -> None:
    coding, encode = way
    coded = encode(data)
    cut = coded[: draw.draw(st.integers(0, len(coded) - 1))]
    try:
        # Between two members, or frames, nothing is missing.
        assert b"".join(decode_pieces(cut, coding)) == data[:7]
    except BadCoding:
        return


@given(st.sampled_from([coding for coding, _ in WAYS]), st.binary(max_size=200))
def test_arbitrary_bytes_are_decoded_or_refused_and_nothing_else(coding: str, data: bytes) -> None:
    try:
        assert sum(map(len, decode_pieces(data, coding))) >= 0
    except BadCoding:
        return


@pytest.mark.parametrize(("coding", "encode"), [way for way in WAYS if way[0] != "x-gzip"])
def test_bytes_behind_the_end_are_refused(coding: str, encode: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BadCoding):
        list(decode_pieces(encode(b"{}") + b"x", coding))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_comes_in_small_pieces(coding: str) -> None:
    encode = dict(WAYS)[coding]
    sizes = [len(piece) for piece in decode_pieces(encode(bytes(20_000_000)), coding)]
    assert sum(sizes) == 20_000_000
    assert max(sizes) <= LARGEST_PIECE_BYTES


def test_the_codings_that_are_known() -> None:
    assert all(map(knows_coding, ("gzip", "x-gzip", "deflate", "br", "zstd")))
    assert not any(map(knows_coding, ("compress", "identity", "", "gzip ")))


FRAME_HEAD = zstandard.ZstdCompressor(write_content_size=False).compress(b"x")[:6]


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_empty_members_are_bounded(coding: str) -> None:
    empty = gzip.compress(b"") if coding == "gzip" else zstandard.compress(b"")
    assert b"".join(decode_pieces(empty * MAX_MEMBERS, coding)) == b""
    with pytest.raises(BadCoding, match="more than 4096"):
        list(decode_pieces(empty * (MAX_MEMBERS + 1), coding))


def test_empty_zstd_blocks_are_bounded() -> None:
    last = b"\1\0\0"
    assert b"".join(decode_pieces(FRAME_HEAD + bytes(3000) + last, "zstd")) == b""
    with pytest.raises(BadCoding, match="more than 65536 blocks"):
        list(decode_pieces(FRAME_HEAD + bytes(3 * MAX_BLOCKS) + last, "zstd"))


def test_members_of_any_size_are_decoded() -> None:
    parts = [b"", b"x", MIXED[:5000], MIXED * 40, b""]
    coded = b"".join(map(gzip.compress, parts))
    assert b"".join(decode_pieces(coded, "gzip")) == b"".join(parts)
