"""What parsers read differently is refused, with a word on where it stands."""

import contextlib
import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.base import BadRequest
from gateway.dialects.reading import strict_json
from gateway.dialects.reading.strict_json import COST_BEARING, parse_object, require_lower_case

HUGE = b"1" * 5000


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"  ", "line 1"),
        (b"[]", "must be a JSON object"),
        (b'"model"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{", "line 1, column 2"),
        (b'{"a":1}x', "line 1, column 8"),
        (b'{"a":1}{"b":2}', "line 1, column 8"),
        (b'{"a":1}\0', "line 1, column 8"),
        (b'\0{"a":1}', "UTF-8"),
        (b'{"a":"\0"}', "column 7"),
        (b'{\n"a":\n tru}', "line 3"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b'{"a":01}', "not valid JSON"),
        (b'{"a":+1}', "not valid JSON"),
        (b'{"a":.5}', "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":Infinity}', "not valid JSON"),
        (b'{"a":-Infinity}', "not valid JSON"),
        (b'{"a":1e400}', "infinity"),
        (b'{"a":-1e400}', "infinity"),
        (b'{"a":%s}' % HUGE, "infinity"),
        (b'{"a":0.%s}' % HUGE, "longer than 128"),
        (b'{"a":18446744073709551616}', "beyond 64 bits"),
        (b'{"a":-9223372036854775809}', "beyond 64 bits"),
        (b'{"a":100000000000000000000000}', "beyond 64 bits"),
        (b'\xef\xbb\xbf{"a":1}', "byte order mark"),
        ('{"a":1}'.encode("utf-16"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-le"), "UTF-16"),
        ('{"a":1}'.encode("utf-32"), "UTF-16"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\xc0\x80"}', "UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":"\\udc00\\ud800"}', "surrogate"),
        (b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}", "depth"),
        (b'{"a":' + b'{"a":' * 90_000 + b"1" + b"}" * 90_001, "depth"),
        (b'{"a":' + b"[" * 500 + b"]" * 500 + b"}", "254 levels"),
        (b"[" * 90_000, "not valid JSON"),
    ],
)
def test_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_object(body)
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","model":"a"}', "model"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model"),
        (b'{"a":"x:y","model":1,"model":"\\u003a"}', "model"),
        (b'{"a":"\\u003A","n":1,"n":2}', "n"),
        (b'{"x":{"y":[1,{"z":1,"z":2}]}}', "x.y[1].z"),
        (b'{"":1,"":2}', ""),
        (b'{"x":[0,18446744073709551616]}', "x[1]"),
        (b'{"model":"a","Model":"b"}', "Model"),
        (b'{"x":1,"X":2}', "X"),
        (b'{"Model":"a"}', "Model"),
        (b'{"MAX_TOKENS":5}', "MAX_TOKENS"),
        (b'{"maxTokens":5}', "maxTokens"),
        (b'{"Max-Tokens":5}', "Max-Tokens"),
        ('{"ſtream":true}'.encode(), "ſtream"),
        ('{"max_toKens":5}'.replace("K", "K").encode(), "max_toKens"),
    ],
)
def test_says_which_name(body: bytes, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_object(body)
    assert (refused.value.param or "") == param


def test_a_name_with_nul_is_refused() -> None:
    with pytest.raises(BadRequest, match="NUL"):
        parse_object(b'{"model":"a","model\\u0000":"b"}')
    with pytest.raises(BadRequest, match="NUL"):
        parse_object(b'{"a":[{"b\\u0000":"b"}]}')


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b' \r\n\t{"a" : 1 }\n',
        b'{"a":18446744073709551615,"b":-9223372036854775808}',
        b'{"a":0.1000000000000000055511151231257827021181583404541015625}',
        b'{"a":1e308,"b":1e-400}',
        b'{"a":"1234567890123456789012345","b":"see: https://example.org:80/"}',
        b'{"a":"\\u003a:","b":"\\u0000","c":"\\\\u0000"}',
        b'{"a":"\\ud83d\\ude00","b":"\xf0\x9f\x98\x80"}',
        b'{"a":{"b":1},"c":{"b":1}}',
        b'{"a":' + b"[" * 250 + b"]" * 250 + b"}",
        b'{"tools":[{"parameters":{"properties":{"Model":{},"model":{}}}}]}',
        b'{"X-Custom":1,"topK":3}',
    ],
)
def test_is_read_as_json_reads_it(body: bytes) -> None:
    assert parse_object(body) == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"1234567890123456789012345 and \\" 1234567890123456789"}',
        b'{"a":"\\u003a \\u003A : \\\\u003a","b":"\\u003c"}',
        b'{"a":"\\u0000 \\"\\u0000\\": ","b":["\\u0000:"]}',
    ],
)
def test_strings_alone_do_not_need_the_slow_way(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_json, "_inspect", None)
    assert parse_object(body) == json.loads(body)


def test_in_a_large_body_a_repeated_name_is_refused_without_a_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strict_json, "_inspect", None)
    body = b'{"a":1,"a":2,"b":[' + b",".join([b"{}"] * 10_000) + b"]}"
    with pytest.raises(BadRequest, match="same name twice"):
        parse_object(body)


class Pairs(list[tuple[str, object]]):
    """An object as it is written, names repeated."""


NAMES = st.sampled_from(["a", "b", "A", "model", "Model", ":", "n\u0000", "a:b", "\u212a"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from('a:"\\\u0000é1234567890'), max_size=24),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(st.tuples(NAMES, inner), max_size=4).map(Pairs)
    ),
    max_leaves=8,
)


def written(value: object, *, escape: bool) -> str:
    if isinstance(value, Pairs):
        members = (f"{json.dumps(k)} :{written(v, escape=escape)}" for k, v in value)
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(v, escape=escape) for v in value) + "]"
    text = json.dumps(value)
    return text.replace(":", "\\u003a") if escape and isinstance(value, str) else text


def must_be_refused(value: object) -> bool:
    if isinstance(value, Pairs):
        names = [name for name, _ in value]
        return (
            len(set(names)) < len(names)
            or any("\0" in name for name in names)
            or any(must_be_refused(v) for _, v in value)
        )
    if isinstance(value, list):
        return any(must_be_refused(v) for v in value)
    return isinstance(value, int) and not -(2**63) <= value < 2**64


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=5).map(Pairs), st.booleans())
def test_nothing_ambiguous_gets_through(document: Pairs, escape: bool) -> None:
    body = written(document, escape=escape).encode()
    names = [name for name, _ in document]
    aliased = len({n.casefold() for n in names}) < len(names) or any(
        n.casefold() in COST_BEARING and n not in COST_BEARING for n in names
    )
    try:
        read = parse_object(body)
    except BadRequest:
        assert must_be_refused(document) or aliased
    else:
        assert not must_be_refused(document)
        assert not aliased
        assert read == json.loads(body)
        assert json.loads(orjson.dumps(read)) == read


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for data in (body, b'{"a":' + body + b"}", b'{"a":"' + body + b'"}'):
        with contextlib.suppress(BadRequest):
            assert type(parse_object(data)) is dict


def test_lower_case_is_required_where_asked() -> None:
    require_lower_case({"type": 1, "image_url": 2}, "part")
    with pytest.raises(BadRequest) as refused:
        require_lower_case({"type": 1, "Type": 2}, "part")
    assert refused.value.param == "part.Type"
    with pytest.raises(BadRequest):
        require_lower_case({"ﬁle_id": 1}, "part")
