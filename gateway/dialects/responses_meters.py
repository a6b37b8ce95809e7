"""Meters of the Responses API.

Usage comes with the last event, `response.completed`, `response.incomplete` or `response.failed`;
what an event says lies in its `type`, which the SSE event name repeats.
"""

from typing import Any, Final

from gateway.dialects.bounds import text_tokens
from gateway.dialects.metering import CountedAnswer, JsonMeter, SseMeter
from gateway.dialects.reported import BadUsage, read_responses_usage

_FINAL: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
_SILENT: Final = frozenset({"response.audio.delta"})
"""Deltas that are output but not text."""


class _Response(CountedAnswer):
    """Reads the `response` object, which is the JSON answer and stands in the last event."""

    __slots__ = ()

    def _read_response(self, response: dict[str, Any]) -> None:
        self._note(response.get("id"), response.get("model"))
        self._note_tier(response.get("service_tier"))
        status = response.get("status")
        details = response.get("incomplete_details")
        if status == "incomplete" and type(details) is dict:
            self._finished(details.get("reason") or status)
        else:
            self._finished(status)
        if status == "failed":
            self.facts.error = True
        report = response.get("usage")
        if report is None:
            return
        try:
            usage = dict(read_responses_usage(report))
        except BadUsage as problem:
            self._refuse_usage(problem)
            return
        calls = _hosted_calls(response.get("output"))
        if calls:
            usage["tool_call"] = calls
        self._take_usage(usage, final=True)


class ResponsesJsonMeter(JsonMeter, _Response):
    """A whole response."""

    def _read(self, document: dict[str, Any]) -> None:
        self._read_response(document)
        output = document.get("output")
        if type(output) is not list:
            return
        for item in output:
            if type(item) is dict and (size := _item_text(item)):
                self._count_text(size)


class ResponsesSseMeter(SseMeter, _Response):
    """The events of a streamed response."""

    def _read(self, document: dict[str, Any], frame: bytes) -> bool:  # noqa: ARG002 - each has its number
        kind = document.get("type")
        if type(kind) is not str:
            return False
        if kind.endswith(".delta"):
            delta = document.get("delta")
            if type(delta) is str and delta:
                self._count_text(0 if kind in _SILENT else text_tokens(delta))
        elif kind in _FINAL:
            response = document.get("response")
            if type(response) is dict:
                self._read_response(response)
            if kind == "response.failed":
                self.facts.error = True
        elif kind == "response.created":
            response = document.get("response")
            if type(response) is dict:
                self._note(response.get("id"), response.get("model"))
        elif kind == "error":
            self.facts.error = True
        return False


def _hosted_calls(output: Any) -> int:
    """Output items that are calls of hosted tools; functions and custom tools are the caller's."""
    if type(output) is not list:
        return 0
    own = ("function_call", "custom_tool_call", "local_shell_call", "computer_call", "shell_call")
    return sum(
        1
        for item in output
        if type(item) is dict
        and type(kind := item.get("type")) is str
        and kind.endswith("_call")
        and kind not in own
        and kind != "apply_patch_call"
    )


def _item_text(item: dict[str, Any]) -> int:
    """Bytes of output text in an item: text, refusals, summaries, calls' arguments."""
    total = 0
    for name in ("arguments", "input", "name"):
        value = item.get(name)
        if type(value) is str:
            total += text_tokens(value)
    for name in ("content", "summary"):
        parts = item.get(name)
        if type(parts) is not list:
            continue
        for part in parts:
            if type(part) is dict:
                for member in ("text", "refusal", "transcript"):
                    value = part.get(member)
                    if type(value) is str:
                        total += text_tokens(value)
    return total
