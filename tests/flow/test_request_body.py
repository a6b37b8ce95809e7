"""Coded bodies at the sizes of a real limit: exact at the limit, and constant memory beyond it."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from gateway.flow.refusals import Refused
from gateway.flow.request_body import body_coding, decode_body
from tests.flow.asked import Asked

LIMIT_BYTES = 4 << 20
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: bytes(brotli.compress(data, quality=4)),
    "zstd": zstandard.compress,
}
MIXED = bytes(range(256)) * 4096


@pytest.mark.parametrize("coding", ENCODE)
@pytest.mark.parametrize("size", [0, 1 << 20, (1 << 20) + 1, LIMIT_BYTES - 1, LIMIT_BYTES])
def test_a_body_up_to_the_limit_is_decoded_exactly(coding: str, size: int) -> None:
    body = (MIXED * 4)[:size]
    assert decode_body(ENCODE[coding](body), coding, LIMIT_BYTES) == body


@pytest.mark.parametrize("coding", ENCODE)
@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 50_000_000])
def test_beyond_the_limit_it_is_refused_in_constant_memory(coding: str, size: int) -> None:
    bomb = ENCODE[coding](bytes(size))
    tracemalloc.start()
    with pytest.raises(Refused) as refused:
        decode_body(bomb, coding, LIMIT_BYTES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.kind == "too_large"
    assert peak < 2_000_000


def test_what_a_request_says_of_its_coding() -> None:
    assert body_coding(Asked()) is None
    assert body_coding(Asked(("Content-Encoding", "identity"))) is None
    assert body_coding(Asked(("content-encoding", ""))) is None
    assert body_coding(Asked(("content-encoding", " GZip "))) == "gzip"
    for values in (["gzip", "gzip"], ["gzip, br"], ["compress"], ["aws-chunked"]):
        with pytest.raises(Refused) as refused:
            body_coding(Asked(*(("content-encoding", value) for value in values)))
        assert refused.value.kind == "unsupported_media"
