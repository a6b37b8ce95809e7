"""Heads of responses: the grammar, the layouts that speed it up, and that both agree with llhttp."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.client.head import (
    HEAD_MOST_BYTES,
    HeadReader,
    Malformed,
    check_incomplete,
)

OK = b"HTTP/1.1 200 OK\r\n"


def head_of(*fields: bytes, start: bytes = OK) -> bytes:
    return start + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


Seen = tuple[int, list[tuple[bytes, bytes]], bool, bool, int] | None


def seen(reader: HeadReader, data: bytes) -> Seen | str:
    """What a reader makes of the data: status, end-to-end fields, keep-alive, chunked, end."""
    try:
        head = reader.read(data)
    except Malformed:
        return "malformed"
    if head is None:
        return None
    layout, values, end = head
    fields = list(zip(layout.names.names, values, strict=True))
    return layout.status, fields, layout.keep_alive, layout.chunked, end


def test_fields_are_lower_cased_trimmed_and_without_those_of_the_hop() -> None:
    data = head_of(
        b"Content-Type: a/b",
        b"X-Empty:",
        b"x-spaces: \t in between \t ",
        b"Connection: X-Hop, Keep-Alive",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Content-Length: 3",
        b"content-type: c/d",
    )
    reader = HeadReader()
    for _ in range(4):  # read, remembered, compiled, matched
        assert seen(reader, data + b"abc") == (
            200,
            [
                (b"content-type", b"a/b"),
                (b"x-empty", b""),
                (b"x-spaces", b"in between"),
                (b"content-length", b"3"),
                (b"content-type", b"c/d"),
            ],
            True,
            False,
            len(data),
        )


def test_equal_names_share_one_object_and_what_was_concluded_from_them() -> None:
    reader = HeadReader()
    names = []
    for number in range(5):
        head = reader.read(head_of(b"X-Id: %d" % number, b"Content-Length: %d" % number))
        assert head is not None
        names.append(head[0].names)
        assert head[1] == (b"%d" % number,) * 2
    assert all(each is names[0] for each in names)
    assert names[0].index == {b"x-id": 0, b"content-length": 1}
    assert names[0].memo is None


@pytest.mark.parametrize(
    ("fields", "keep_alive"),
    [
        ((b"content-length: 0",), True),
        ((b"content-length: 0", b"connection: close"), False),
        ((b"content-length: 0", b"connection: x, CLOSE"), False),
        ((b"content-length: 0", b"connection: x", b"connection: close"), False),
        ((b"transfer-encoding: Chunked",), True),
        ((), False),
    ],
)
def test_whether_the_connection_lasts(fields: tuple[bytes, ...], keep_alive: bool) -> None:
    reader = HeadReader()
    for _ in range(3):
        head = reader.read(head_of(*fields))
        assert head is not None
        assert head[0].keep_alive is keep_alive


def test_a_connection_field_is_part_of_the_layout() -> None:
    """The compiled pattern of one that lasts must not match one that does not."""
    reader = HeadReader()
    lasting = head_of(b"connection: keep-alive", b"content-length: 0")
    closing = head_of(b"connection: close", b"content-length: 0")
    for _ in range(3):
        for data, expected in ((lasting, True), (closing, False)):
            head = reader.read(data)
            assert head is not None
            assert head[0].keep_alive is expected


@pytest.mark.parametrize(
    ("start", "fields", "usual"),
    [
        (OK, (b"content-length: 3",), True),
        (b"HTTP/1.1 503 No\r\n", (b"content-length: 3", b"keep-alive: timeout=5"), True),
        (OK, (b"content-length: 3", b"connection: close"), False),
        (OK, (b"transfer-encoding: chunked",), False),
        (OK, (), False),
        (b"HTTP/1.0 200 OK\r\n", (b"content-length: 3",), False),
        (b"HTTP/1.1 204 No\r\n", (b"content-length: 3",), False),
        (b"HTTP/1.1 304 No\r\n", (b"content-length: 3",), False),
        (b"HTTP/1.1 100 Continue\r\n", (b"content-length: 0",), False),
        (b"HTTP/1.1 101 Switching\r\n", (b"content-length: 3",), False),
    ],
)
def test_which_heads_the_straight_path_may_take(
    start: bytes, fields: tuple[bytes, ...], usual: bool
) -> None:
    """Only a final response that its length alone ends, on a connection that is kept."""
    head = HeadReader().read(head_of(*fields, start=start))
    assert head is not None
    assert head[0].usual is usual


def test_content_length_is_read_even_if_the_connection_field_names_it() -> None:
    reader = HeadReader()
    for _ in range(4):
        head = reader.read(head_of(b"connection: content-length", b"content-length: 3"))
        assert head is not None
        layout, values, _ = head
        assert values[layout.length_at] == b"3"


REFUSED = {
    "status 000": head_of(start=b"HTTP/1.1 000 No\r\n"),
    "status 099": head_of(start=b"HTTP/1.1 099 No\r\n"),
    "status 600": head_of(start=b"HTTP/1.1 600 No\r\n"),
    "status 999": head_of(start=b"HTTP/1.1 999 No\r\n"),
    "status of two digits": head_of(start=b"HTTP/1.1 20 No\r\n"),
    "status of four digits": head_of(start=b"HTTP/1.1 2000 No\r\n"),
    "HTTP/2": head_of(start=b"HTTP/2 200\r\n"),
    "HTTP/1.2": head_of(start=b"HTTP/1.2 200 OK\r\n"),
    "lower-case http": head_of(start=b"http/1.1 200 OK\r\n"),
    "leading line": b"\r\n" + head_of(),
    "control character in the reason": head_of(start=b"HTTP/1.1 200 O\x01\r\n"),
    "bare LF": head_of(b"a: b\nc: d"),
    "LF alone": b"HTTP/1.1 200 OK\na: b\n\n",
    "bare CR": head_of(b"a: b\rc: d"),
    "NUL": head_of(b"a: b\0"),
    "folded line": head_of(b"a: b", b" c"),
    "space before the colon": head_of(b"a : b"),
    "no name": head_of(b": b"),
    "no colon": head_of(b"abc"),
    "space in a name": head_of(b"a b: c"),
    "non-ASCII name": head_of(b"\xe4: c"),
    "length with a sign": head_of(b"content-length: +5"),
    "negative length": head_of(b"content-length: -5"),
    "length in hexadecimal": head_of(b"content-length: 0x5"),
    "empty length": head_of(b"content-length:"),
    "length list": head_of(b"content-length: 5, 5"),
    "two equal lengths": head_of(b"content-length: 5", b"Content-Length: 5"),
    "two lengths": head_of(b"content-length: 5", b"content-length: 6"),
    "length beyond 18 digits": head_of(b"content-length: " + b"1" * 19),
    "length and coding": head_of(b"content-length: 5", b"transfer-encoding: chunked"),
    "coding and length": head_of(b"transfer-encoding: chunked", b"content-length: 5"),
    "other coding": head_of(b"transfer-encoding: gzip, chunked"),
    "coding twice": head_of(b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
    "coding list": head_of(b"transfer-encoding: chunked, chunked"),
    "empty coding": head_of(b"transfer-encoding:"),
    "too many fields": head_of(*[b"a: b"] * 129),
    "too large": head_of(b"a: " + b"b" * HEAD_MOST_BYTES),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_one_unambiguous_head_is_refused(name: str) -> None:
    data = REFUSED[name]
    reader = HeadReader()
    for _ in range(4):
        assert seen(reader, data) in (None, "malformed")
        reader.read(head_of(b"a: b", b"content-length: 5"))
        reader.read(head_of(b"a: b"))


@pytest.mark.parametrize("length", [b"+5", b"", b"5, 5", b"0x5", b"1" * 19])
def test_a_known_layout_does_not_excuse_a_bad_length(length: bytes) -> None:
    reader = HeadReader()
    for _ in range(4):
        assert seen(reader, head_of(b"a: b", b"content-length: 5")) is not None
    with pytest.raises(Malformed):
        reader.read(head_of(b"a: b", b"content-length: " + length))


def test_a_known_layout_does_not_excuse_too_large_a_head() -> None:
    reader = HeadReader()
    for size in (1, 2, 3, 4):
        reader.read(head_of(b"a: " + b"b" * size))
    with pytest.raises(Malformed):
        reader.read(head_of(b"a: " + b"b" * HEAD_MOST_BYTES))


def test_layouts_that_never_repeat_are_bounded() -> None:
    reader = HeadReader()
    for number in range(1000):
        for _ in range(3):
            assert reader.read(head_of(b"x-%d: 1" % number)) is not None
    assert len(reader._layouts) <= 64
    assert len(reader._tried) <= 4
    assert reader._compiled <= 32


# Against llhttp


class Heard:
    """What llhttp reads of a head."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


names = st.sampled_from([b"A", b"content-type", b"X-Id", b"Content-Length", b"Connection", b"b c"])
values = st.sampled_from([b"", b"1", b"a/b; c=d", b"close", b"keep-alive", b"5", b"\xe4", b"x\ty"])
odd = st.sampled_from([b"a:b", b"a :b", b" a: b", b"a: b ", b"a:  b", b"a: \x01", b"a: b\n", b"a"])
field_lines = st.one_of(st.tuples(names, values).map(lambda f: b"%b: %b" % f), odd)
starts = st.sampled_from(
    [
        OK,
        b"HTTP/1.0 404 Not Found\r\n",
        b"HTTP/1.1 204\r\n",
        b"HTTP/1.1 99 x\r\n",
        b"HTTP/1.1 201 \r\n",
    ]
)


@given(st.lists(field_lines, max_size=5), starts)
def test_it_accepts_nothing_that_llhttp_refuses_and_reads_the_same(
    fields: list[bytes], start: bytes
) -> None:
    data = head_of(*fields, start=start)
    reader = HeadReader()
    results = [seen(reader, data) for _ in range(4)]
    assert results == results[:1] * 4, "remembered or not, it reads the same"
    result = results[0]
    if result is None or result == "malformed":
        return
    heard = Heard()
    httptools.HttpResponseParser(heard).feed_data(data)
    assert heard.complete
    head = reader.read(data)
    assert head is not None
    layout, values, _ = head
    kept = [heard.fields[at] for at in layout.kept]
    assert list(zip(layout.names.names, values, strict=True)) == kept
    assert {name for name, _ in heard.fields} - {name for name, _ in kept} <= {b"connection"}


# Heads that have not arrived completely


def test_each_beginning_of_a_valid_head_may_go_on() -> None:
    data = head_of(b"a: b", b"content-length: 5")
    for end in range(1, len(data)):
        assert HeadReader().read(data[:end]) is None
        check_incomplete(data[:end], 0)


@pytest.mark.parametrize(
    "start",
    [b"x", b"HTTP/2", b"HTTP/1.1 0", b"HTTP/1.1 6", b"HTTP/1.1 200x", b"HTTP/1.1 200\n", b"\r"],
)
def test_a_beginning_that_can_never_be_valid_fails_at_once(start: bytes) -> None:
    with pytest.raises(Malformed):
        check_incomplete(start, 0)


def test_a_bare_line_feed_fails_at_once_wherever_the_pieces_are_cut() -> None:
    data = OK + b"a: b\nc: d"
    with pytest.raises(Malformed):
        check_incomplete(data, 0)
    line_feed = len(OK) + 4
    check_incomplete(data[:line_feed], 0)
    with pytest.raises(Malformed):
        check_incomplete(data[: line_feed + 1], line_feed)
