"""Answers of the Responses API.

Usage comes with the last event, `response.completed`, `response.incomplete` or `response.failed`;
what an event says lies in its `type`, which the SSE event name repeats. Hosted calls show in events
of their own, as output items, and in the final response: each id counts once.
"""

import re
from typing import Any, Final

from gateway.dialects.reading.reader import ERROR_NAMES, AnswerReader
from gateway.dialects.reading.tables import OPENAI
from gateway.dialects.reading.text import output_bytes, text_bytes

_FINAL: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
_SILENT: Final = frozenset({"response.audio.delta", "response.output_audio.delta"})
"""Deltas that are output but not text."""

_CALL_EVENT: Final = re.compile(r"response\.([a-z_]+_call)\.([a-z_]+)")
_OWN_CALLS: Final = frozenset(
    {
        "function_call",
        "custom_tool_call",
        "local_shell_call",
        "computer_call",
        "shell_call",
        "apply_patch_call",
    }
)
"""Calls that the caller runs."""
_NOT_BILLED: Final = frozenset({"open_page", "find_in_page"})
"""Actions of a web search call that are no search."""


class ResponsesReader(AnswerReader):
    """A response, one document or events."""

    table = OPENAI
    contents = frozenset({"output", "usage"})
    complete = frozenset({"usage", "error", "incomplete_details", "action", "detail"})
    kept = ERROR_NAMES | {
        "id",
        "model",
        "service_tier",
        "status",
        "response",
        "item",
        "item_id",
        "output_index",
        "output",
        "content",
        "summary",
        "text",
        "refusal",
        "transcript",
        "arguments",
        "input",
        "name",
        "delta",
    }

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[int, str] = {}  # place of an item → by what it is known

    def read_document(self, document: dict[str, Any]) -> None:
        """A complete response."""
        for item in _items(document):
            if size := _item_bytes(item):
                self.count_text(size)
        self._read_response(document)

    def read_event(self, document: dict[str, Any], frame: bytes) -> bool:  # noqa: ARG002 - each has its number
        """An event."""
        kind = document.get("type")
        if not isinstance(kind, str):
            return False
        if kind.endswith(".delta"):
            delta = document.get("delta")
            if isinstance(delta, str) and delta:
                self.count_text(0 if kind in _SILENT else text_bytes(delta))
        elif kind in _FINAL:
            if kind == "response.failed":
                self.facts.error = True
            response = document.get("response")
            if type(response) is dict:
                self._count_unseen(response)
                self._read_response(response)
        elif kind in ("response.created", "response.in_progress"):
            response = document.get("response")
            if type(response) is dict:
                self.note(response.get("id"), response.get("model"))
        elif kind in ("response.output_item.added", "response.output_item.done"):
            item = document.get("item")
            if type(item) is dict:
                self._see_item(item, document.get("output_index"))
        elif (match := _CALL_EVENT.fullmatch(kind)) and match[1] not in _OWN_CALLS:
            key = self._key_of(document.get("item_id"), document.get("output_index"))
            self.see_call(key, billed=match[2] != "failed")
        return False

    def _read_response(self, response: dict[str, Any]) -> None:
        """The `response` object, which is the JSON answer and part of the last event."""
        self.note(response.get("id"), response.get("model"))
        self.note_tier(response.get("service_tier"))
        status = response.get("status")
        details = response.get("incomplete_details")
        if status == "incomplete" and type(details) is dict:
            self.finished(details.get("reason") or status)
        else:
            self.finished(status)
        if status == "failed":
            self.facts.error = True
        for at, item in enumerate(_items(response)):
            self._see_item(item, at)
        self.report(response.get("usage"), final=True)

    def _count_unseen(self, response: dict[str, Any]) -> None:
        """Text that came with no delta before."""
        self.update_count()
        size = sum(map(_item_bytes, _items(response)))
        if size and not self.facts.counted_output:
            self.count_text(size)

    def _key_of(self, item_id: Any, index: Any) -> str | None:
        """By what an item is known: its id, or its place where some events leave the id out."""
        if type(index) is not int:
            return item_id if isinstance(item_id, str) else None
        name = item_id if isinstance(item_id, str) else f"#{index}"
        return self._names.setdefault(index, name)

    def _see_item(self, item: dict[str, Any], index: Any) -> None:
        kind = item.get("type")
        if not isinstance(kind, str) or not kind.endswith("_call") or kind in _OWN_CALLS:
            return
        action = item.get("action")
        browses = type(action) is dict and action.get("type") in _NOT_BILLED
        key = self._key_of(item.get("id"), index)
        self.see_call(key, billed=not browses and item.get("status") != "failed")


def _items(response: dict[str, Any]) -> list[dict[str, Any]]:
    output = response.get("output")
    return [item for item in output if type(item) is dict] if type(output) is list else []


def _item_bytes(item: dict[str, Any]) -> int:
    """Bytes of output text in an item: text, refusals, summaries, calls' arguments."""
    total = 0
    for name in ("arguments", "input", "name"):
        value = item.get(name)
        if isinstance(value, str):
            total += text_bytes(value)
    for name in ("content", "summary"):
        parts = item.get(name)
        for part in parts if type(parts) is list else ():
            if type(part) is dict:
                total += sum(output_bytes(part.get(m)) for m in ("text", "refusal", "transcript"))
    return total
