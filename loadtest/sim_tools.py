"""Tools in a request to the simulated provider, and the call that it makes of one. Pure.

A call is made when the controls name a tool (`tool=NAME args={…}`, `tool=*` for the first) that the
request offers, and the request does not bring the result of a call already: then the answer is text,
so a client that obeys ends its round trip.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from loadtest.sim_answer import ID_MARK, Call

FIRST: Final = "*"
"""Calls whichever tool the request offers first."""

CALL_ID: Final = "call_" + ID_MARK


def choose(wanted: str, arguments: str, offered: tuple[str, ...]) -> Call | None:
    """The call to make of what a request offers; None when it does not offer the tool."""
    if wanted == FIRST and offered:
        return Call(offered[0], arguments)
    return Call(wanted, arguments) if wanted in offered else None


def offered_tools(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the functions that a request of any kind offers, in order."""
    return tuple(_names(document.get("tools")))


def _names(tools: Any) -> Iterator[str]:
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        for holder in ("tools", "functionDeclarations"):
            yield from _names(tool.get(holder))
        function = tool.get("function")
        described = function if isinstance(function, dict) else tool
        name = described.get("name")
        if isinstance(name, str) and tool.get("type") != "namespace":
            yield name


def brings_result(document: Mapping[str, Any]) -> bool:
    """Whether the result of a call follows the model's last words."""
    for name in ("messages", "input", "contents"):
        turns = document.get(name)
        if isinstance(turns, list):
            return _ends_in_result(turn for turn in reversed(turns) if isinstance(turn, dict))
    return False


def _ends_in_result(turns: Iterable[dict[str, Any]]) -> bool:
    for turn in turns:
        if turn.get("role") in ("assistant", "model"):
            return False
        parts = turn.get("content") or turn.get("parts")
        inside = [p for p in parts if isinstance(p, dict)] if isinstance(parts, list) else []
        if (
            turn.get("role") in ("tool", "function")
            or str(turn.get("type", "")).endswith("_output")
            or any(
                part.get("type") == "tool_result" or "functionResponse" in part for part in inside
            )
        ):
            return True
    return False
