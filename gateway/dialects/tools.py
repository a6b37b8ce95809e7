"""Who runs a tool: the caller, the provider at a price, or an unknown party.

Invariants: a tool that the provider runs may bill by the call, so it passes only where the route prices
it. A tool that the caller runs costs its tokens alone. For a tool of an unknown type the
operator decides (`unknown_tools`). A name and a schema of arguments make a tool a function,
whatever its type is called.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from gateway.dialects.base import BadRequest, ReadOptions
from gateway.dialects.bounds import PROVIDER_TOOL_TOKENS, Prompt, refuse_stored
from gateway.dialects.reading.strict_json import require_lower_case

Tool = dict[str, Any]

_CONTAINER: Final = "namespace"
"""A type of tool that holds others in `tools`."""

_SCHEMAS: Final = ("parameters", "input_schema")

_DATE: Final = re.compile(r"_\d{8}$|_\d{4}_\d{2}_\d{2}$")

_PROVIDERS: Final = (
    "advisor",
    "browser_search",
    "code_execution",
    "code_interpreter",
    "collections_search",
    "connector",
    "document_library",
    "enterprise_web_search",
    "file_search",
    "google_",
    "image_generation",
    "live_search",
    "mcp",
    "programmatic_tool",
    "retrieval",
    "tool_search",
    "url_context",
    "web_browse",
    "web_fetch",
    "web_search",
    "x_search",
)
"""Words in the types of tools that providers run: a schema does not make one the caller's."""


@dataclass(frozen=True, slots=True)
class Families:
    """The types of tools that one dialect knows, without their dates.

    own:        run by the caller, described in the body
    described:  run by the caller, described by the provider
    untyped:    a tool that leaves out its type is the caller's
    priced:     hosted tools can be priced by the call
    """

    own: frozenset[str]
    described: frozenset[str] = frozenset()
    untyped: bool = False
    priced: bool = True


@dataclass(frozen=True, slots=True)
class Hosted:
    """A tool that the provider runs and the route prices. where: its path in the body."""

    tool: Tool
    where: str


def family_of(kind: str) -> str:
    """A tool's type without the date of its version."""
    return _DATE.sub("", kind)


def named_tools(tools: list[Any], where: str) -> Iterator[tuple[Any, str]]:
    """Each tool of a list with its path in the body."""
    return ((tool, f"{where}[{at}]") for at, tool in enumerate(tools))


def judge_tools(
    tools: Iterable[tuple[Any, str]], families: Families, prompt: Prompt
) -> Iterator[Hosted]:
    """Yield the tools that the route prices and add their room. Raises BadRequest for tools that
    may not pass.

    tools:  each with its path in the body
    """
    options = prompt.options
    for tool, where in _unpacked(tools):
        kind = tool.get("type")
        if "type" not in tool and families.untyped:
            continue
        if kind is not None and type(kind) is not str:
            raise BadRequest("`type` of a tool must be a string.", param=f"{where}.type")
        family = family_of(kind or "")
        if families.priced and {kind, family} & options.priced_tools:
            refuse_stored(tool, where, options)
            prompt.add_room(PROVIDER_TOOL_TOKENS)
            yield Hosted(tool, where)
        elif family in families.described:
            prompt.add_room(PROVIDER_TOOL_TOKENS)
        elif not _is_own(tool, kind, family, families):
            pass_unknown(kind or "", f"{where}.type", prompt)
            refuse_stored(tool, where, options)


def pass_unknown(kind: str, param: str, prompt: Prompt) -> None:
    """Make room for an unpriced tool if the route lets it pass. Raises BadRequest."""
    if prompt.options.unknown_tools == "refuse":
        named = f"of the type `{kind[:64]}`" if kind else "without a type"
        raise BadRequest(
            f"Tools {named} may bill by the call and have no price here. Omit this tool, or ask the"
            " operator to price it (`priced_tools` of the route) or to let it pass"
            " (`unknown_tools: pass`).",
            param=param,
            code="unsupported_tool",
        )
    prompt.add_room(PROVIDER_TOOL_TOKENS + prompt.options.result_tokens)


def default_calls(name: str, param: str, options: ReadOptions) -> int:
    """How many hosted calls a request may make that names no maximum. Raises BadRequest.

    name: the field by which a request names it
    """
    if options.max_tool_calls is None:
        raise BadRequest(
            f"Hosted tools bill by the call. Set the most calls with `{name}`, or ask the operator to set"
            " `max_tool_calls` of the route.",
            param=param,
        )
    return options.max_tool_calls


def _unpacked(tools: Iterable[tuple[Any, str]]) -> Iterator[tuple[Tool, str]]:
    """The tools, those inside containers in place of the containers. Raises BadRequest."""
    todo = list(tools)
    todo.reverse()
    while todo:
        tool, where = todo.pop()
        if type(tool) is not dict:
            raise BadRequest("A tool must be an object.", param=where)
        require_lower_case(tool, where)
        inside = tool.get("tools")
        if tool.get("type") != _CONTAINER or type(inside) is not list:
            yield tool, where
            continue
        todo.extend(reversed(list(named_tools(inside, f"{where}.tools"))))


def _is_own(tool: Tool, kind: str | None, family: str, families: Families) -> bool:
    if kind == "shell":
        # Without an environment, and in a local one, the caller runs the commands.
        environment = tool.get("environment")
        return environment is None or (
            type(environment) is dict and environment.get("type") == "local"
        )
    if kind == "tool_search":
        return tool.get("execution") == "client"
    if family in families.own:
        return True
    spelled = family.casefold().replace("-", "_")
    if any(word in spelled for word in _PROVIDERS):
        return False
    return type(tool.get("name")) is str and any(type(tool.get(s)) is dict for s in _SCHEMAS)
