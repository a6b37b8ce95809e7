"""Whose tool it is: the caller's own, the provider's at a price, or for the operator to decide."""

from typing import Any

import orjson
import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import BadRequest, ReadOptions, RequestFacts
from tests.unit.dialects.test_probes import LEAST

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"type": "function", "name": "tide", "parameters": SCHEMA}
WEB_SEARCH = {"type": "web_search", "external_web_access": True}
PASS = ReadOptions(unknown_tools="pass")


def read(name: str, options: ReadOptions = ReadOptions(), /, **fields: Any) -> RequestFacts:  # noqa: B008
    body = orjson.dumps({**LEAST[name], **fields})
    return DIALECTS[name].read_request(body, options)


def refusal(name: str, options: ReadOptions = ReadOptions(), /, **fields: Any) -> BadRequest:  # noqa: B008
    with pytest.raises(BadRequest) as refused:
        read(name, options, **fields)
    return refused.value


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("openai_responses", FUNCTION),
        ("openai_responses", {"type": "namespace", "name": "agents", "tools": [FUNCTION]}),
        (
            "openai_responses",
            {"type": "namespace", "tools": [{"type": "namespace", "tools": [FUNCTION]}]},
        ),
        ("openai_responses", {"type": "namespace", "name": "none", "tools": []}),
        ("openai_responses", {"type": "local_shell"}),
        ("openai_responses", {"type": "shell"}),
        ("openai_responses", {"type": "shell", "environment": {"type": "local"}}),
        ("openai_responses", {"type": "apply_patch"}),
        ("openai_responses", {"type": "computer"}),
        ("openai_responses", {"type": "tool_search", "execution": "client", "parameters": SCHEMA}),
        ("openai_responses", {"type": "brand_new", "name": "tide", "parameters": SCHEMA}),
        ("openai_responses", {"name": "tide", "parameters": SCHEMA}),
        ("openai_chat", {"type": "brand_new", "name": "tide", "parameters": SCHEMA}),
        ("openai_chat", {"type": "namespace", "name": "agents", "tools": [FUNCTION]}),
        ("anthropic_messages", {"type": None, "name": "tide", "input_schema": SCHEMA}),
        ("anthropic_messages", {"type": "brand_new_20270101", "name": "t", "input_schema": SCHEMA}),
        ("anthropic_messages", {"type": "computer_toolset_20260801"}),
        ("anthropic_messages", {"type": "text_editor_20250728", "name": "str_replace"}),
    ],
)
def test_tools_that_the_caller_runs_pass(name: str, tool: dict[str, Any]) -> None:
    facts = read(name, tools=[tool])
    assert facts.tool_calls == 0
    assert facts.input_bound > read(name).input_bound + 1024


@pytest.mark.parametrize(
    ("name", "tool", "param"),
    [
        ("openai_responses", WEB_SEARCH, "tools[0].type"),
        (
            "openai_responses",
            {"type": "namespace", "name": "n", "tools": [FUNCTION, WEB_SEARCH]},
            "tools[0].tools[1].type",
        ),
        ("openai_responses", {**WEB_SEARCH, "name": "x", "parameters": SCHEMA}, "tools[0].type"),
        ("openai_responses", {"type": "Web_Search", "name": "x", "parameters": SCHEMA}, None),
        ("openai_chat", {"type": "vendor:web_search", "name": "x", "parameters": SCHEMA}, None),
        ("openai_responses", {"type": "web-search", "name": "x", "parameters": SCHEMA}, None),
        ("openai_responses", {"type": "shell", "environment": {"type": "container_auto"}}, None),
        ("openai_responses", {"type": "tool_search"}, "tools[0].type"),
        ("openai_responses", {"type": "programmatic_tool_calling"}, "tools[0].type"),
        ("openai_responses", {"type": "brand_new"}, "tools[0].type"),
        ("openai_responses", {"type": "brand_new", "name": "no schema"}, "tools[0].type"),
        ("openai_chat", WEB_SEARCH, "tools[0].type"),
        ("openai_chat", {"type": "browser_search"}, "tools[0].type"),
        (
            "anthropic_messages",
            {"type": "code_execution_20260521", "name": "c", "input_schema": SCHEMA},
            "tools[0].type",
        ),
        ("anthropic_messages", {"type": "advisor_20260301", "name": "advisor"}, "tools[0].type"),
        ("anthropic_messages", {"type": "mcp_toolset", "mcp_server_name": "x"}, "tools[0].type"),
    ],
)
def test_the_operator_decides_about_the_rest(
    name: str, tool: dict[str, Any], param: str | None
) -> None:
    refused = refusal(name, tools=[tool])
    assert refused.param == (param or "tools[0].type")
    assert "`unknown_tools: pass`" in refused.message
    assert "`priced_tools`" in refused.message
    inner = tool["tools"][-1] if "tools" in tool else tool
    assert inner["type"] in refused.message
    facts = read(name, PASS, tools=[tool])
    assert facts.tool_calls == 0
    assert facts.input_bound > read(name).input_bound + 16_384
    assert facts.input_own is not None
    assert facts.input_own < facts.input_bound - 16_384, "what the provider adds is no usage"


def test_the_operator_s_maximum_is_held_and_written_into_requests_that_name_none() -> None:
    kinds = frozenset({"web_search"})
    options = ReadOptions(priced_tools=kinds, max_tool_calls=3)
    facts = read("openai_responses", options, tools=[WEB_SEARCH])
    assert (facts.tool_calls, facts.document["max_tool_calls"]) == (3, 3)
    facts = read("openai_responses", options, tools=[WEB_SEARCH], max_tool_calls=2)
    assert (facts.tool_calls, facts.document["max_tool_calls"]) == (2, 2)
    dated = {"type": "web_search_20260318", "name": "web_search"}
    facts = read("anthropic_messages", options, tools=[dated, {**dated, "max_uses": 1}])
    assert facts.tool_calls == 4
    assert [tool["max_uses"] for tool in facts.document["tools"]] == [3, 1]
    unset = ReadOptions(priced_tools=kinds)
    for name, tool in (("openai_responses", WEB_SEARCH), ("anthropic_messages", dated)):
        assert "`max_tool_calls` of the route" in refusal(name, unset, tools=[tool]).message


def test_what_is_stored_stays_refused_in_tools_that_pass() -> None:
    tool = {"type": "file_search", "vector_store_ids": ["vs_1"]}
    assert refusal("openai_responses", PASS, tools=[tool]).param == "tools[0].vector_store_ids"


def test_web_search_of_a_chat_is_one_of_the_rest() -> None:
    assert "unknown_tools" in refusal("openai_chat", web_search_options={}).message
    assert read("openai_chat", PASS, web_search_options={}).tool_calls == 0


@pytest.mark.parametrize("kind", [5, True, ["function"], {"function": 1}])
@pytest.mark.parametrize("name", ["openai_chat", "openai_responses", "anthropic_messages"])
def test_a_type_that_is_no_string_is_refused_whatever_the_operator_says(
    name: str, kind: object
) -> None:
    assert refusal(name, PASS, tools=[{"type": kind}]).param == "tools[0].type"


def test_tools_that_come_with_the_messages_are_judged_too() -> None:
    for kind in ("tool_search_output", "additional_tools"):
        item: dict[str, Any] = {"type": kind, "tools": [FUNCTION]}
        items = [{"role": "user", "content": "hi"}, item]
        assert read("openai_responses", input=items).input_bound > 1024
        items[1] = {**item, "tools": [FUNCTION, WEB_SEARCH]}
        assert refusal("openai_responses", input=items).param == "input[1].tools[1].type"

    def added(tool: dict[str, Any]) -> list[dict[str, Any]]:
        addition = {
            "type": "tool_addition",
            "tool": {"type": "tool_definition", "definition": tool},
        }
        return [{"role": "user", "content": "hi"}, {"role": "system", "content": [addition]}]

    read("anthropic_messages", messages=added({"name": "tide", "input_schema": SCHEMA}))
    search = {"type": "web_search_20260318", "name": "web_search"}
    where = "messages[1].content[0].tool.definition.type"
    assert refusal("anthropic_messages", messages=added(search)).param == where
    compacted = {"type": "compaction", "content": "x", "tool_changes": added(search)[1]["content"]}
    messages = [{"role": "user", "content": [compacted]}]
    where = "messages[0].content[0].tool_changes[0].tool.definition.type"
    assert refusal("anthropic_messages", messages=messages).param == where


CLEAR_TOOLS = {"type": "clear_tool_uses_20250919", "keep": {"type": "tool_uses", "value": 3}}
CLEAR_THINKING = {"type": "clear_thinking_20251015", "keep": "all"}


@pytest.mark.parametrize("name", ["anthropic_messages", "anthropic_count_tokens"])
def test_edits_of_the_context_that_only_clear_pass(name: str) -> None:
    least = LEAST["anthropic_messages"]
    dialect = DIALECTS[name]

    def read_edits(management: Any) -> RequestFacts:
        fields = {k: v for k, v in least.items() if k != "max_tokens"}
        body = orjson.dumps({**fields, "max_tokens": 5, "context_management": management})
        return dialect.read_request(body, ReadOptions())

    harmless: list[Any] = [{"edits": [CLEAR_THINKING, CLEAR_TOOLS]}, {"edits": []}, {}, None]
    for passes in harmless:
        assert read_edits(passes).document["context_management"] == passes
    for refused, param in (
        ({"edits": [CLEAR_TOOLS, {"type": "compact_20260112"}]}, "edits[1].type"),
        ({"edits": [{"type": "unheard_of"}]}, "edits[0].type"),
        ({"edits": ["clear_tool_uses_20250919"]}, "edits[0].type"),
        ({"edits": [{"type": 5}]}, "edits[0].type"),
        ({"edits": [{**CLEAR_TOOLS, "Type": "compact_20260112"}]}, "edits[0].Type"),
        ({"edits": "x"}, None),
        ([CLEAR_TOOLS], None),
        ({"edits": [], "summarize": True}, "summarize"),
    ):
        with pytest.raises(BadRequest) as error:
            read_edits(refused)
        assert error.value.param == "context_management" + (f".{param}" if param else "")
    with pytest.raises(BadRequest, match="compact_20260112"):
        read_edits({"edits": [{"type": "compact_20260112"}]})
