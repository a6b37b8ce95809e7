"""Heads without sockets: what is refused, and that a remembered head is as strict as a parsed one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.server.head_memory import REMEMBERED_MAX, HeadMemory, RememberedHead
from gateway.http.server.request_head import HeadRefused, ParsedHead, parse_head

LINE = b"POST /v1/chat HTTP/1.1\r\n"
HOST = b"Host: gate.example\r\n"


def head(*lines: bytes) -> bytes:
    return LINE + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def remembered(block: bytes) -> RememberedHead | None:
    return HeadMemory().read(block)[2]


@pytest.mark.parametrize(
    "block",
    [
        head(b"Content-Length: 5", b"content-length: 5"),
        head(b"Content-Length : 5"),
        head(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        head(b"Transfer-Encoding: chunked, gzip"),
        head(b"Transfer-Encoding: "),
        head(b"Transfer_Encoding: x", b"Transfer-Encoding: identity"),
        head(b"Content-Length: "),
        head(b"Content-Length: 0x5"),
        head(b"Content-Length: 5 5"),
        head(b"Content-Length: 99999999999999999999"),
        head(b"Content-Length: \xb2"),
        head(b"A: b\x7f"),
        head(b"A: b\x01"),
        head(b"A\xe9: b"),
        head(b": b"),
        head(b"A"),
        head(b"Expect: 100-continue", b"Expect: x"),
        head(b"Host: other.example"),
        b" " + head(),
        b"POST  /v1/chat HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST\t/v1/chat HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST /v1/chat HTTP/1.1 \r\n" + HOST + b"\r\n",
        b"POST /v1/chat http/1.1\r\n" + HOST + b"\r\n",
        b"POST /v1/chat HTTP/1.1x\r\n" + HOST + b"\r\n",
        b"POST /v1/chat HTTP/01.1\r\n" + HOST + b"\r\n",
        b"POST /v1/chat ICE/1.1\r\n" + HOST + b"\r\n",
        b"SOURCE /v1/chat ICE/1.0\r\n" + HOST + b"\r\n",
        LINE + b" A: b\r\n" + HOST + b"\r\n",
    ],
)
def test_a_head_that_two_servers_could_read_differently_is_refused(block: bytes) -> None:
    with pytest.raises(HeadRefused):
        parse_head(block)


def test_a_header_name_with_an_underscore_is_another_name() -> None:
    parsed = parse_head(head(b"Content_Length: 7", b"Content-Length: 5"))
    assert parsed.content_length == 5
    assert parsed.head.header("content_length") == "7"


def test_a_field_over_8_kb_is_431_and_one_below_is_not() -> None:
    parse_head(head(b"A: " + b"b" * 8_180))
    with pytest.raises(HeadRefused) as refused:
        parse_head(head(b"A: " + b"b" * 8_200))
    assert refused.value.problem[0] == 431


def test_the_length_is_not_among_the_fields_that_heads_share() -> None:
    parsed = parse_head(head(b"Content-Length: 5"))
    assert parsed.head.header("content-length") is None
    assert [name for name, _ in parsed.head.headers()] == ["Host"]


@pytest.mark.parametrize(
    ("block", "keeps", "expects"),
    [
        (head(), True, False),
        (head(b"Connection: close"), False, False),
        (head(b"Connection: Close"), False, False),
        (head(b"Expect: 100-Continue"), True, True),
        (b"POST / HTTP/1.0\r\n\r\n", False, False),
        (b"POST / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True, False),
        (b"POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", False, False),
    ],
)
def test_who_keeps_the_connection_and_who_waits_for_100(
    block: bytes, keeps: bool, expects: bool
) -> None:
    parsed = parse_head(block)
    assert (parsed.keep_alive, parsed.expects) == (keeps, expects)


# Remembered heads


@pytest.mark.parametrize("length", [0, 1, 9, 10, 12345, 9_999_999_999])
def test_an_equal_head_with_another_length_is_recognised(length: int) -> None:
    known = remembered(head(b"A: b", b"Content-Length: 77", b"C: d"))
    assert known is not None
    other = head(b"A: b", b"Content-Length: %d" % length, b"C: d")
    assert known.match(other + b"body") == (length, len(other))


@pytest.mark.parametrize(
    "other",
    [
        head(b"A: b", b"Content-Length: 077"),
        head(b"A: b", b"Content-Length: 00"),
        head(b"A: b", b"Content-Length: +7"),
        head(b"A: b", b"Content-Length: "),
        head(b"A: b", b"Content-Length: 7 "),
        head(b"A: b", b"Content-Length: 7, 7"),
        head(b"A: b", b"Content-Length: 12345678901"),
        head(b"A: b", b"Content-Length: 7", b"Content-Length: 8"),
        head(b"A: b", b"Content-Length: 7", b"Transfer-Encoding: chunked"),
        head(b"A: B", b"Content-Length: 7"),
        head(b"A: b", b"Content-length: 7"),
        head(b"A: b", b"Content-Length: 7")[:-1],
        head(b"A: b", b"Content-Length: \xb2"),
    ],
)
def test_a_head_that_differs_in_anything_else_is_parsed(other: bytes) -> None:
    known = remembered(head(b"A: b", b"Content-Length: 77"))
    assert known is not None
    assert known.match(other) is None


@pytest.mark.parametrize(
    "block",
    [
        head(b"Transfer-Encoding: chunked"),
        head(b"Expect: 100-continue", b"Content-Length: 5"),
        head(b"Connection: upgrade", b"Upgrade: h2c"),
        head(b"Content-Length: 007"),
        head(b"A: " + b"b" * 5_000),
    ],
)
def test_heads_that_are_not_plain_or_are_long_are_not_remembered(block: bytes) -> None:
    assert remembered(block) is None


def test_connections_with_equal_heads_share_what_the_flow_concluded() -> None:
    memory = HeadMemory()
    first, length, _ = memory.read(head(b"Content-Length: 5"))
    first.head.memo = "concluded"
    second, other_length, _ = memory.read(head(b"Content-Length: 12"))
    assert (length, other_length, second.head.memo) == (5, 12, "concluded")
    assert memory.read(head(b"A: b", b"Content-Length: 5"))[0].head.memo is None


def test_the_memory_is_bounded() -> None:
    memory = HeadMemory()
    for number in range(REMEMBERED_MAX + 10):
        memory.read(head(b"A: %d" % number))
    assert len(memory._known) == REMEMBERED_MAX


PARTS = st.sampled_from(
    [
        b"A: b",
        b"Host: gate.example",
        b"Content-Length: 3",
        b"Content-Length: 03",
        b"content-length:3",
        b"Content-Length:\t3",
        b"Content-Length: 3 ",
        b"X: Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Connection: close",
        b"",
        b" folded",
        b"A : b",
        b"A: b\r",
        b"A: b\nContent-Length: 3",
    ]
)


def outcome(block: bytes, memory: HeadMemory | None) -> object:
    """What a head comes to: a refusal, or everything that serving depends on."""
    try:
        if memory is None:
            parsed: ParsedHead = parse_head(block)
            length = parsed.content_length
        else:
            parsed, length, _ = memory.read(block)
    except HeadRefused as refused:
        return refused.problem
    flags = (parsed.keep_alive, parsed.is_http10, parsed.expects)
    return parsed.head.method, parsed.head.path, parsed.head.headers(), length, flags


@given(st.lists(st.lists(PARTS, max_size=4), min_size=2, max_size=6))
def test_remembering_never_changes_what_a_head_comes_to(heads: list[list[bytes]]) -> None:
    memory = HeadMemory()
    for lines in heads:
        block = head(*lines)
        assert outcome(block, memory) == outcome(block, None)
        known = None
        try:
            known = memory.read(block)[2]
        except HeadRefused:
            continue
        for other_lines in heads:
            other = head(*other_lines).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            found = known.match(other) if known is not None else None
            if found is not None:
                parsed = parse_head(other)
                assert found == (parsed.content_length, len(other))
                assert known is not None
                assert known.parsed.head.headers() == parsed.head.headers()
