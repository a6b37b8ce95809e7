"""The number of values is bounded before a body is parsed, whatever its strings contain."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.base import BadRequest
from gateway.dialects.reading import value_count
from gateway.dialects.reading.strict_json import parse_object
from gateway.dialects.reading.value_count import has_more_values, mark_count

TEXTS = st.text(alphabet='",[]{}:\\ aé\n', max_size=12)
DOCUMENTS = st.recursive(
    st.none() | st.integers(0, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=40,
)


def count(value: Any) -> int:
    """Values as documented: an empty object or list counts twice."""
    if isinstance(value, dict):
        return 1 + (sum(map(count, value.values())) or 1)
    if isinstance(value, list):
        return 1 + (sum(map(count, value)) or 1)
    return 1


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS, st.booleans(), st.integers(1, 9))
def test_the_count_is_exact_outside_strings(document: Any, ascii_only: bool, chunk: int) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode()
    values = count(document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(value_count, "_CHUNK_BYTES", chunk)
        for most in range(max(1, values - 2), values + 2):
            assert has_more_values(body, most) is (values > most)
    assert mark_count(body) >= values


def test_text_full_of_commas_is_one_value() -> None:
    text = ',{["\\' * 300_000
    assert parse_object(json.dumps({"model": text}).encode()) == {"model": text}


@pytest.mark.parametrize("item", [b"{}", b"[]", b"0", b'""', b'{"a":1}', b"[[]]"])
def test_too_many_values_are_refused_before_parsing(item: bytes) -> None:
    body = b'{"x":[' + b",".join([item] * 1000) + b"]}"
    assert parse_object(body, 4000)
    with pytest.raises(BadRequest, match="more than 999 JSON values") as refused:
        parse_object(body, 999)
    assert refused.value.code == "too_many_values"
    with pytest.raises(BadRequest, match="more than 999 JSON values"):
        parse_object(body[:-2], 999)  # not even JSON: it has not been parsed
