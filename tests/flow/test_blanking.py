"""What an upstream echoes of the gate's credential is blanked, however it is cut into pieces."""

import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.flow.blanking import BlankedUpstream, Blanker, blanked, secrets_of
from gateway.http.interface import Headers, UpstreamError

SECRET = b"sk-sks-secret"


class Answer:
    """An answer whose pieces are given."""

    def __init__(self, pieces: list[bytes], headers: list[tuple[bytes, bytes]]) -> None:
        self.status = 200
        self.headers = headers
        self.pieces = list(pieces)
        self.closed = False

    @property
    def done(self) -> bool:
        return not self.pieces

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed = True


class Upstream:
    name = "u"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def send(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        return self.answer

    async def close(self) -> None:
        """Nothing is open."""


async def read_all(pieces: list[bytes], *headers: tuple[bytes, bytes]) -> bytes:
    answer = await BlankedUpstream(Upstream(Answer(pieces, list(headers))), (SECRET,)).send(
        "GET", "/", (), b""
    )
    read = b""
    while piece := await answer.read():
        read += piece
    assert answer.done
    return read


@given(
    st.lists(st.sampled_from([SECRET, b"sk-", b"sk-sks-", b"s", b"x\n\n"]), max_size=8),
    st.sets(st.integers(1, 80), max_size=9),
)
def test_in_any_pieces_it_is_blanked_as_in_one(parts: list[bytes], cuts: set[int]) -> None:
    data = b"".join(parts)
    borders = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    blanker = Blanker((SECRET,))
    passed = [blanker.feed(data[a:b]) for a, b in pairwise(borders)]
    assert b"".join(passed) + blanker.finish() == blanked(data, (SECRET,))
    assert SECRET not in b"".join(passed)
    assert blanker.found is (SECRET in data)


def test_what_cannot_begin_a_secret_is_not_kept() -> None:
    blanker = Blanker((SECRET,))
    assert blanker.feed(b'data: {"x": "sk"}\n\n') == b'data: {"x": "sk"}\n\n'
    assert not blanker.keeps
    assert blanker.feed(b"ends in sk-sk") == b"ends in "
    assert blanker.keeps


async def test_headers_and_body_of_an_answer_are_blanked_in_their_length() -> None:
    upstream = Upstream(Answer([b"a sk-sks-", b"secret b"], [(b"x-echo", b"Bearer " + SECRET)]))
    answer = await BlankedUpstream(upstream, (SECRET,)).send("GET", "/", (), b"")
    assert answer.headers == [(b"x-echo", b"Bearer " + b"*" * len(SECRET))]
    assert await answer.read() == b"a "
    assert await answer.read() == b"*" * len(SECRET) + b" b"
    answer.close()
    assert upstream.answer.closed


async def test_the_beginning_of_a_secret_at_the_end_passes_last() -> None:
    assert await read_all([b"x sk-", b"sks-sec"]) == b"x sk-sks-sec"


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_a_coded_answer_that_shows_it_is_cut_before_its_last_byte_is_out(size: int) -> None:
    coded = gzip.compress(b"plain text " * 50 + SECRET + b" more" * 1000)
    pieces = [coded[at : at + size] for at in range(0, len(coded), size)]
    with pytest.raises(UpstreamError):
        await read_all(pieces, (b"Content-Encoding", b"gzip"))


async def test_another_coded_answer_passes_unchanged() -> None:
    coded = gzip.compress(b"plain sk-sks- text")
    pieces = [coded[at : at + 3] for at in range(0, len(coded), 3)]
    assert await read_all(pieces, (b"content-encoding", b"gzip")) == coded


def test_what_counts_as_a_secret() -> None:
    assert secrets_of(["Bearer sk-long-enough", "plain-secret"]) == (
        b"sk-long-enough",
        b"plain-secret",
    )
    assert secrets_of(["Bearer none", ""]) == ()
