"""A coded answer is decoded for metering, in pieces of any size, and a bomb harms nobody."""

import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import content_encoding as coding
from gateway.dialects.content_encoding import decoder_for

TEXT = b'data: {"choices":[]}\n\n' * 500


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


CODED = {
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]),
    "deflate": zlib.compress(TEXT),
    "Deflate": raw_deflate(TEXT),
    "br": brotli.compress(TEXT),
    "zstd": zstandard.compress(TEXT),
    "identity, zstd": zstandard.compress(TEXT[:100]) + zstandard.compress(TEXT[100:]),
    "gzip, br": brotli.compress(gzip.compress(TEXT)),
}


@pytest.mark.parametrize("name", CODED)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_row_54_every_coding_is_decoded_however_it_is_cut(name: str, choose: st.DataObject) -> None:
    coded = CODED[name]
    cuts = sorted(choose.draw(st.sets(st.integers(0, len(coded)), max_size=6)))
    decoder = decoder_for(name.encode())
    assert decoder is not None
    pieces = zip([0, *cuts], [*cuts, len(coded)], strict=True)
    assert b"".join(decoder.feed(coded[a:b]) for a, b in pieces) == TEXT
    assert decoder.problem is None


@pytest.mark.parametrize("name", CODED)
def test_a_piece_is_decoded_as_soon_as_it_is_there(name: str) -> None:
    decoder = decoder_for(name.encode())
    assert decoder is not None
    coded = CODED[name]
    assert b"".join(decoder.feed(coded[at : at + 1]) for at in range(len(coded))) == TEXT


@pytest.mark.parametrize("header", [None, b"", b"identity", b" Identity , "])
def test_what_is_not_coded_needs_no_decoder(header: bytes | None) -> None:
    assert decoder_for(header) is None


@pytest.mark.parametrize("header", [b"compress", b"gzip, unheard-of", b"\xff", b"gzip, gzip, gzip"])
def test_an_unknown_coding_is_a_problem_not_an_error(header: bytes) -> None:
    decoder = decoder_for(header)
    assert decoder is not None
    assert decoder.feed(TEXT) == b""
    assert "not known" in (decoder.problem or "")


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_bytes_that_are_not_coded_so_are_a_problem_not_an_error(name: str) -> None:
    decoder = decoder_for(name.encode())
    assert decoder is not None
    decoder.feed(b"\x07 these are not the bytes" * 10)
    assert decoder.problem is not None
    assert decoder.feed(CODED[name]) == b""


BOMB = bytes(40_000_000)


@pytest.mark.parametrize(
    "bomb",
    [
        ("gzip", gzip.compress(BOMB)),
        ("deflate", zlib.compress(BOMB)),
        ("br", brotli.compress(BOMB, quality=5)),
        ("zstd", zstandard.compress(BOMB)),
    ],
    ids=lambda bomb: bomb[0],
)
def test_a_bomb_ends_the_decoding(bomb: tuple[str, bytes]) -> None:
    decoder = decoder_for(bomb[0].encode())
    assert decoder is not None
    assert len(decoder.feed(bomb[1])) <= coding.MAX_PIECE_BYTES
    assert decoder.problem is not None
    assert decoder.feed(b"x") == b""


def test_an_answer_decodes_to_a_bounded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding, "MAX_TOTAL_BYTES", 1000)
    decoder = decoder_for(b"gzip")
    assert decoder is not None
    stream = zlib.compressobj(wbits=31)
    total = 0
    for _ in range(100):
        piece = stream.compress(b"x" * 100) + stream.flush(zlib.Z_SYNC_FLUSH)
        total += len(decoder.feed(piece))
    assert total == 1000
    assert decoder.problem is not None


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_the_members_of_an_answer_are_bounded(name: str) -> None:
    encode = gzip.compress if name == "gzip" else zstandard.compress
    empty = encode(b"")
    decoder = decoder_for(name.encode())
    assert decoder is not None
    assert decoder.feed(encode(TEXT) + empty * (coding.MAX_MEMBERS - 1)) == TEXT
    before = decoder.problem
    assert decoder.feed(empty) == b""
    assert before is None
    assert "more" in str(decoder.problem)
