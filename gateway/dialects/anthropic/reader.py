"""Answers of Anthropic's Messages API.

A stream reports its input with `message_start` and its cumulative output with each `message_delta`.
The report is final once a stop reason came or the message stopped. After an `error` event nothing
more comes. Hosted tools show as `server_tool_use` blocks, and their failures in the result's block.
"""

from typing import Any, Final

from gateway.dialects.reading.reader import ERROR_NAMES, AnswerReader
from gateway.dialects.reading.tables import ANTHROPIC
from gateway.dialects.reading.text import rendered_bytes, text_bytes

_TEXTS: Final = ("text", "thinking", "partial_json")
_RESULT: Final = "_tool_result"


class MessagesReader(AnswerReader):
    """A message, one document or events."""

    table = ANTHROPIC
    contents = frozenset({"content", "message", "delta"})
    complete = frozenset({"usage", "error", "input", "detail"})
    kept = ERROR_NAMES | {
        "id",
        "model",
        "message",
        "content",
        "content_block",
        "text",
        "thinking",
        "partial_json",
        "delta",
        "stop_reason",
        "tool_use_id",
        "name",
    }

    def read_document(self, document: dict[str, Any]) -> None:
        """A complete message."""
        self.note(document.get("id"), document.get("model"))
        self.finished(document.get("stop_reason"))
        content = document.get("content")
        for block in content if type(content) is list else ():
            if type(block) is dict:
                self._see_block(block)
                if size := block_bytes(block):
                    self.count_text(size)
        self._report(document.get("usage"), final=True)

    def read_event(self, document: dict[str, Any], frame: bytes) -> bool:
        """An event."""
        kind = document.get("type")
        if kind == "content_block_delta":
            delta = document.get("delta")
            if type(delta) is dict:
                self._read_delta(delta, frame)
        elif kind == "content_block_start":
            block = document.get("content_block")
            if type(block) is dict:
                self._see_block(block)
                if size := sum(
                    text_bytes(block[n]) for n in _TEXTS if isinstance(block.get(n), str)
                ):
                    self.count_text(size)
        elif kind == "message_start":
            message = document.get("message")
            if type(message) is dict:
                self.note(message.get("id"), message.get("model"))
                self._report(message.get("usage"), final=False)
        elif kind == "message_delta":
            delta = document.get("delta")
            reason = delta.get("stop_reason") if type(delta) is dict else None
            self.finished(reason)
            self._report(document.get("usage"), final=reason is not None)
        elif kind == "message_stop":
            self.done()
        return False

    def _report(self, report: Any, *, final: bool) -> None:
        if type(report) is dict:
            self.note_tier(report.get("service_tier"))
        self.report(report, final=final)

    def _read_delta(self, delta: dict[str, Any], frame: bytes) -> None:
        for name in _TEXTS:
            text = delta.get(name)
            if isinstance(text, str) and text:
                self.count_text(text_bytes(text))
                if frame and type(text) is str:
                    self.repeated.learn(frame, name.encode(), text)
                return

    def _see_block(self, block: dict[str, Any]) -> None:
        kind = block.get("type")
        if kind == "server_tool_use":
            self.see_call(block.get("id"))
        elif isinstance(kind, str) and kind.endswith(_RESULT):
            content = block.get("content")
            said = content.get("type") if type(content) is dict else None
            if isinstance(said, str) and said.endswith("_error"):
                self.see_call(block.get("tool_use_id"), billed=False)


def block_bytes(block: dict[str, Any]) -> int:
    """Bytes of output in a block: text, thinking, and the arguments of a call."""
    total = 0
    for name in ("text", "thinking"):
        value = block.get(name)
        if isinstance(value, str):
            total += text_bytes(value)
    if "input" in block:
        total += rendered_bytes(block["input"])
    return total
