"""JSON pointers: the examples of RFC 6901, section 5, and what is no pointer."""

from typing import Any

import pytest

from gateway.dialects.any_api.pointer import MISSING, Pointer
from gateway.dialects.base import BadRequest

DOCUMENT = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
        ("/foo/2", MISSING),
        ("/foo/-", MISSING),
        ("/foo/00", MISSING),
        ("/foo/0/x", MISSING),
        ("/nothing", MISSING),
    ],
)
def test_a_pointer_finds_what_stands_there(text: str, value: Any) -> None:
    assert (
        Pointer.parse(text).find(DOCUMENT) is value or Pointer.parse(text).find(DOCUMENT) == value
    )
    assert Pointer.parse(text).find_alone(DOCUMENT) == Pointer.parse(text).find(DOCUMENT)


@pytest.mark.parametrize("text", ["foo", "#/foo", "/a~", "/a~2b"])
def test_what_is_no_pointer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="JSON pointer"):
        Pointer.parse(text)


@pytest.mark.parametrize(
    "document", [{"N": 1}, {"n": 1, "N": 2}, {"a": {"ſ": 1}}, {"A": {"s": 1}, "a": {"s": 2}}]
)
def test_a_name_that_some_reader_could_take_for_another_is_refused(document: Any) -> None:
    with pytest.raises(BadRequest):
        Pointer.parse("/a/s" if "a" in document else "/n").find_alone(document)
