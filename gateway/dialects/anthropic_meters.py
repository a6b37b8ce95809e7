"""Meters of Anthropic messages.

A stream tells its input with `message_start` and its cumulative output with each `message_delta`;
later figures replace earlier ones, fields that a later report leaves out keep their value. The
report is final once a stop reason came or the message stopped. After an `error` event nothing
more comes.
"""

from typing import Any, Final

from gateway.dialects.bounds import text_tokens
from gateway.dialects.metering import JsonMeter, SseMeter
from gateway.dialects.reported import BadUsage, read_anthropic_usage

_TEXTS: Final = ("text", "thinking", "partial_json")


class MessageJsonMeter(JsonMeter):
    """A whole message."""

    def _read(self, document: dict[str, Any]) -> None:
        self._note(document.get("id"), document.get("model"))
        self._finished(document.get("stop_reason"))
        content = document.get("content")
        if type(content) is list:
            for block in content:
                if type(block) is dict and (size := _block_text(block)):
                    self._count_text(size)
        report = document.get("usage")
        if report is not None:
            self._note_tier(report.get("service_tier") if type(report) is dict else None)
            try:
                self._take_usage(read_anthropic_usage(report), final=True)
            except BadUsage as problem:
                self._refuse_usage(problem)


class MessageSseMeter(SseMeter):
    """The events of a streamed message."""

    __slots__ = ("_report",)

    def __init__(self) -> None:
        super().__init__()
        self._report: dict[str, Any] = {}

    def _read(self, document: dict[str, Any], frame: bytes) -> bool:
        kind = document.get("type")
        if kind == "content_block_delta":
            delta = document.get("delta")
            if type(delta) is dict:
                self._read_delta(delta, frame)
        elif kind == "message_start":
            message = document.get("message")
            if type(message) is dict:
                self._note(message.get("id"), message.get("model"))
                self._merge(message.get("usage"), final=False)
        elif kind == "message_delta":
            delta = document.get("delta")
            reason = delta.get("stop_reason") if type(delta) is dict else None
            self._finished(reason)
            self._merge(document.get("usage"), final=reason is not None)
        elif kind == "message_stop":
            self._done()
        elif kind == "error":
            self.facts.error = True
        return False

    def _read_delta(self, delta: dict[str, Any], frame: bytes) -> None:
        for name in _TEXTS:
            text = delta.get(name)
            if type(text) is str and text:
                self._count_text(text_tokens(text))
                self._repeated.learn(frame, name.encode(), text)
                return

    def _merge(self, report: Any, *, final: bool) -> None:
        if report is None:
            return
        try:
            if type(report) is not dict:
                raise BadUsage("usage is not an object")
            self._note_tier(report.get("service_tier"))
            self._report.update({k: v for k, v in report.items() if v is not None})
            self._take_usage(read_anthropic_usage(self._report), final=final)
        except BadUsage as problem:
            self._refuse_usage(problem)


def _block_text(block: dict[str, Any]) -> int:
    total = 0
    for name in ("text", "thinking"):
        value = block.get(name)
        if type(value) is str:
            total += text_tokens(value)
    if "input" in block:
        total += _value_bytes(block["input"])
    return total


def _value_bytes(value: Any) -> int:
    """Bytes of a tool call's input: its names and texts, and a byte for each other value."""
    total = 0
    todo = [value]
    while todo:
        item = todo.pop()
        if type(item) is str:
            total += text_tokens(item)
        elif type(item) is dict:
            todo.extend(item)
            todo.extend(item.values())
        elif type(item) is list:
            todo.extend(item)
        else:
            total += len(str(item))
    return total
