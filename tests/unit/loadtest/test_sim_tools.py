"""When the simulated provider calls a tool, and what a call looks like on the wire."""

from typing import Any

import orjson
import pytest

from loadtest.faults import BadControl, Controls, parse_controls
from loadtest.sim_answer import Call
from loadtest.sim_tools import brings_result, choose, offered_tools

FUNCTION = {"type": "function", "name": "tide", "parameters": {}}


@pytest.mark.parametrize(
    ("tools", "names"),
    [
        (None, ()),
        ([FUNCTION], ("tide",)),
        ([{"type": "function", "function": {"name": "tide"}}], ("tide",)),
        ([{"name": "tide", "input_schema": {}}, {"name": "b"}], ("tide", "b")),
        ([{"type": "namespace", "name": "sea", "tools": [FUNCTION]}], ("tide",)),
        ([{"functionDeclarations": [{"name": "tide"}]}, {"googleSearch": {}}], ("tide",)),
        ([{"type": "web_search"}, 5], ()),
    ],
)
def test_the_functions_that_a_request_offers(tools: Any, names: tuple[str, ...]) -> None:
    assert offered_tools({"tools": tools}) == names


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, False),
        ({"messages": [{"role": "assistant"}, {"role": "tool", "content": "low"}]}, True),
        ({"messages": [{"role": "tool"}, {"role": "assistant"}, {"role": "user"}]}, False),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, True),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result"}]},
                    {"role": "system"},
                ]
            },
            True,
        ),
        ({"input": [{"type": "function_call"}, {"type": "function_call_output"}]}, True),
        ({"input": "hi"}, False),
        ({"contents": [{"role": "user", "parts": [{"functionResponse": {}}]}]}, True),
        ({"contents": [{"role": "model", "parts": [{"functionCall": {}}]}]}, False),
        ({}, False),
    ],
)
def test_the_result_of_a_call_is_noticed(document: dict[str, Any], expected: bool) -> None:
    assert brings_result(document) is expected


def test_only_tools_that_are_offered_are_called() -> None:
    assert choose("tide", "{}", ("a", "tide")) == Call("tide", "{}")
    assert choose("*", "{}", ("a", "tide")) == Call("a", "{}")
    assert choose("*", "{}", ()) is None
    assert choose("tide", "{}", ("a",)) is None


def test_the_pieces_of_a_call_are_its_tokens() -> None:
    call = Call("tide", '{"city":"Emden"}')
    assert len(call.pieces()) == call.tokens == 4
    assert "".join(call.pieces()) == call.arguments
    assert call.cut(2).arguments == '{"city":'
    assert Call("tide", "").tokens == 1


def test_arguments_must_be_a_json_object() -> None:
    assert parse_controls(Controls(), 'tool=tide args={"city":"Emden"}').args == '{"city":"Emden"}'
    for wrong in ("[]", "{", "5"):
        with pytest.raises(BadControl):
            parse_controls(Controls(), f"tool=tide args={wrong}")
    assert orjson.loads(Controls().args) == {}
