"""What an upstream echoes of the gate's credential is blanked, however it is cut into pieces."""

import asyncio
import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.flow.blanking import Blanker, blank_in, blanked, decoder_of, secrets_of
from gateway.http.client.head import HeadReader
from gateway.http.client.pool import UpstreamPool
from gateway.http.client.response import PooledResponse
from gateway.http.interface import UpstreamError
from tests.support.rawhttp import Received, ScriptedUpstream, ok

SECRET = b"sk-sks-secret"


class Carrier:
    """A connection that nothing is asked of."""

    def resume(self) -> None: ...

    def stop(self) -> None: ...


def response_of(*fields: bytes) -> PooledResponse:
    """A response whose head has arrived; it was inspected."""
    raw = b"HTTP/1.1 200 OK\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"
    head = HeadReader().read(raw)
    assert head is not None
    response = PooledResponse(head[0], head[1], Carrier())
    response.raw = raw
    blank_in((SECRET,))(response)
    return response


def read_all(response: PooledResponse, pieces: list[bytes]) -> list[bytes]:
    """What the reader gets, by piece, and what at the end."""
    read = []
    for piece in pieces:
        response.feed(piece)
        read.append(response.take())
    response.finish()
    return [*read, response.take()]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(
    st.lists(st.sampled_from([SECRET, b"sk-", b"sk-sks-", b"s", b"x\n\n"]), max_size=8),
    st.sets(st.integers(1, 80), max_size=9),
)
def test_in_any_pieces_it_is_blanked_as_in_one(parts: list[bytes], cuts: set[int]) -> None:
    data = b"".join(parts)
    boundaries = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    blanker = Blanker((SECRET,))
    passed = [blanker.feed(data[a:b]) for a, b in pairwise(boundaries)]
    assert b"".join(passed) + blanker.finish() == blanked(data, (SECRET,))
    assert SECRET not in b"".join(passed)
    assert blanker.found is (SECRET in data)


def test_what_cannot_begin_a_secret_is_not_kept() -> None:
    blanker = Blanker((SECRET,))
    assert blanker.feed(b'data: {"x": "sk"}\n\n') == b'data: {"x": "sk"}\n\n'
    assert not blanker.keeps
    assert blanker.feed(b"ends in sk-sk") == b"ends in "
    assert blanker.keeps


def test_headers_and_body_are_blanked_in_their_length() -> None:
    response = response_of(b"x-echo: Bearer " + SECRET)
    assert response.headers == [(b"x-echo", b"Bearer " + b"*" * len(SECRET))]
    read = read_all(response, [b"a sk-sks-", b"secret b"])
    assert read == [b"a ", b"*" * len(SECRET) + b" b", b""]


def test_the_beginning_of_a_secret_at_the_end_passes_last() -> None:
    response = response_of()
    response.feed(b"x sk-sks-sec")
    assert response.take() == b"x "
    assert not response.done
    response.finish()
    assert not response.done, "there is something left to read"
    assert (response.take(), response.done, response.take()) == (b"sk-sks-sec", True, b"")


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_coded_response_that_shows_it_is_cut_before_its_last_byte_is_out(size: int) -> None:
    coded = gzip.compress(b"plain text " * 50 + SECRET + b" more" * 1000)
    with pytest.raises(UpstreamError):
        read_all(response_of(b"Content-Encoding: gzip"), cut(coded, size))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_another_coded_response_passes_unchanged_and_is_decoded_once(size: int) -> None:
    coded = gzip.compress(b"plain sk-sks- text")
    response = response_of(b"content-encoding: gzip")
    decoder = decoder_of(response, b"gzip")
    assert decoder is not None
    text, passed = b"", b""
    for piece in [*cut(coded, size), b""]:
        if piece:
            response.feed(piece)
        else:
            response.finish()
        if data := response.take():
            passed += data
            text += decoder.feed(data)
    assert passed == coded
    assert text == b"plain sk-sks- text"
    assert decoder.problem is None


def test_without_a_credential_a_coded_response_is_decoded_for_its_meter_alone() -> None:
    response = response_of(b"content-encoding: gzip")
    response.transform = None
    decoder = decoder_of(response, b"gzip")
    assert decoder is not None
    assert decoder.feed(gzip.compress(b"text")) == b"text"
    assert decoder_of(response, None) is None


ECHO = b'{"error": "no access with Bearer %b"}' % SECRET
BLANK = ECHO.replace(SECRET, b"*" * len(SECRET))
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
AS_CHUNKS = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in cut(ECHO, 7)) + b"0\r\n\r\n"


@pytest.mark.parametrize("pieces", [1, 2, 40])
@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (ok(ECHO), BLANK),
        (AS_CHUNKS, BLANK),
        (ok(b"{}", b"x-echo: " + SECRET), b"{}"),
        (ok(), b"{}"),
    ],
)
async def test_no_response_of_a_pool_shows_it(raw: bytes, body: bytes, pieces: int) -> None:
    async def respond(
        _: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for piece in cut(raw, -(-len(raw) // pieces)):
            writer.write(piece)
            await asyncio.sleep(0.001 if pieces > 1 else 0)

    async with ScriptedUpstream(respond).running() as server:
        pool = UpstreamPool("u", f"http://127.0.0.1:{server.port}", inspect=blank_in((SECRET,)))
        response = await pool.send("GET", "/", b"", b"")
        read = b""
        while piece := await response.read():
            read += piece
        await pool.close()
    assert read == body
    assert not any(SECRET in value for value in response.values)


def test_what_counts_as_a_secret() -> None:
    assert secrets_of(["Bearer sk-long-enough", "plain-secret"]) == (
        b"sk-long-enough",
        b"plain-secret",
    )
    assert secrets_of(["Bearer none", ""]) == ()
