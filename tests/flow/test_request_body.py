"""Coded bodies at the sizes of a real limit: exact at the limit, and constant memory beyond it."""

import gzip
import threading
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from gateway.dialects import DIALECTS
from gateway.dialects.base import Asked as Request
from gateway.dialects.base import ReadOptions, RequestFacts
from gateway.dialects.generic import Generic
from gateway.flow.refusals import Refused, as_refused
from gateway.flow.request_body import (
    INLINE_BYTES,
    INLINE_VALUES,
    body_coding,
    decode_body,
    read_in_thread,
    reads_inline,
)
from gateway.http.interface import BodyError
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


@pytest.mark.parametrize(
    ("kind", "status"),
    [("timeout", 408), ("too_large", 413), ("bad_request", 400), ("overloaded", 503)],
)
def test_what_the_server_says_of_a_body_has_words_in_every_dialect(kind: str, status: int) -> None:
    refusal = as_refused(BodyError(kind, "Because.")).as_refusal("r1")
    assert {dialect.refusal(refusal)[0] for dialect in DIALECTS.values()} == {status}
    assert (refusal.retry_after_s is not None) is (kind == "overloaded")


async def test_large_bodies_and_those_with_many_values_are_read_in_a_thread() -> None:
    here = threading.get_ident()
    threads = []

    class Reader(Generic):
        def read(self, asked: Request, options: ReadOptions) -> RequestFacts:
            threads.append(threading.get_ident())
            return super().read(asked, options)

    def asked(body: bytes) -> Request:
        return Request("POST", "/", "", (), body)

    for body in (b"{}", b" " * INLINE_BYTES, b"," * (INLINE_VALUES - 1)):
        assert reads_inline(body)
        Reader().read(asked(body), ReadOptions())
    assert threads == [here] * 3
    threads.clear()
    for body in (b" " * (INLINE_BYTES + 1), b"," * (INLINE_VALUES + 1)):
        assert not reads_inline(body)
        await read_in_thread(asked(body), Reader(), ReadOptions())
    assert here not in threads
    assert len(set(threads)) == 1, "one body at a time"
