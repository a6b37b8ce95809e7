"""Meters of Gemini's answers: whole, as events, and as one JSON array whose elements arrive in turn.

Every chunk of a stream reports the usage so far. A report is final once each candidate has a finish
reason, or the prompt was blocked; before that it is a running figure.
"""

import re
from typing import Any, Final

import orjson

from gateway.dialects.base import Meter
from gateway.dialects.bounds import text_tokens
from gateway.dialects.metering import CountedAnswer, JsonMeter, SseMeter
from gateway.dialects.reported import BadUsage, read_gemini_usage
from gateway.dialects.sse import MAX_FRAME_BYTES


class _Contents(CountedAnswer):
    """What a GenerateContentResponse says, whole or a chunk."""

    def _begin(self, choices: int) -> None:
        self._choices = choices
        self._finished_choices: set[int] = set()
        self._runs = self._searches = 0

    def _take(self, document: dict[str, Any], *, whole: bool) -> None:
        facts = self.facts
        self._note(document.get("responseId"), document.get("modelVersion"))
        if document.get("error"):
            facts.error = True
        candidates = document.get("candidates")
        size = -1
        for candidate in candidates if type(candidates) is list else ():
            if type(candidate) is dict:
                size = max(size, 0) + self._read_candidate(candidate)
        if size > 0:
            self._count_text(size)
        feedback = document.get("promptFeedback")
        blocked = feedback.get("blockReason") if type(feedback) is dict else None
        self._finished(blocked)
        report = document.get("usageMetadata")
        if report is None:
            return
        try:
            usage = dict(read_gemini_usage(report))
        except BadUsage as problem:
            self._refuse_usage(problem)
            return
        if self._runs or self._searches:
            usage["tool_call"] = self._runs + self._searches
        done = whole or bool(blocked) or len(self._finished_choices) >= self._choices
        self._take_usage(usage, final=done)

    def _read_candidate(self, candidate: dict[str, Any]) -> int:
        """Bytes of its output."""
        size = 0
        content = candidate.get("content")
        parts = content.get("parts") if type(content) is dict else None
        for part in parts if type(parts) is list else ():
            if type(part) is dict:
                size += _part_bytes(part)
                self._runs += "executableCode" in part
        grounding = candidate.get("groundingMetadata")
        queries = grounding.get("webSearchQueries") if type(grounding) is dict else None
        if type(queries) is list:  # told again, whole, by later chunks
            self._searches = max(self._searches, len(queries))
        reason = candidate.get("finishReason")
        if type(reason) is str and reason:
            self._finished(reason)
            index = candidate.get("index")
            self._finished_choices.add(index if type(index) is int else 0)
        return size


class ContentJsonMeter(_Contents, JsonMeter):
    """A whole answer."""

    def __init__(self) -> None:
        super().__init__()
        self._begin(1)

    def _read(self, document: dict[str, Any]) -> None:
        self._take(document, whole=True)


class ContentSseMeter(_Contents, SseMeter):
    """The events of a streamed answer."""

    def __init__(self, choices: int) -> None:
        super().__init__()
        self._begin(choices)

    def _read(self, document: dict[str, Any], frame: bytes) -> bool:  # noqa: ARG002 - usage in each
        self._take(document, whole=False)
        return False


class ContentArrayMeter(_Contents, Meter):
    """The elements of a streamed array. All bytes pass at once."""

    def __init__(self, choices: int) -> None:
        super().__init__()
        self._begin(choices)
        self._splitter = ArraySplitter()

    def feed(self, data: bytes) -> bytes:
        """Read the elements that `data` completes."""
        for element in self._splitter.push(data):
            try:
                document = orjson.loads(element)
            except orjson.JSONDecodeError:
                continue
            self._take(document, whole=False)
        self._update_count()
        return data

    def finish(self) -> bytes:
        """Nothing was held back."""
        facts = self.facts
        if self._splitter.overlong and not facts.usage_final and facts.usage_problem is None:
            facts.usage_problem = "an element was too long to be read"
        return b""


_OUTSIDE: Final = re.compile(rb'["{}]')
_INSIDE: Final = re.compile(rb'["\\]')


class ArraySplitter:
    """Cuts a JSON array into its elements, which are objects, however the bytes arrive.

    Only braces outside of strings count; an element beyond the limit is skipped.
    """

    __slots__ = ("_at", "_depth", "_in_string", "_limit", "_skip", "_tail", "overlong")

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._tail = bytearray()
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._skip = False
        self._limit = limit_bytes
        self.overlong = 0

    def push(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the elements that they complete."""
        tail = self._tail
        tail += data
        elements = []
        begin = 0
        while True:
            match = (_INSIDE if self._in_string else _OUTSIDE).search(tail, self._at)
            if match is None:
                self._at = len(tail)
                break
            self._at = match.end()
            mark = match[0]
            if mark == b"\\":
                if self._at == len(tail):  # what is escaped has not come yet
                    self._at -= 1
                    break
                self._at += 1
            elif mark == b'"':
                self._in_string = not self._in_string
            elif mark == b"{":
                if self._depth == 0:
                    begin = match.start()
                self._depth += 1
            elif self._depth:
                self._depth -= 1
                if self._depth == 0:
                    if not self._skip:
                        elements.append(bytes(tail[begin : self._at]))
                    self._skip = False
                    begin = self._at
        if self._depth == 0:
            begin = self._at
        del tail[:begin]
        self._at -= begin
        if len(tail) > self._limit:
            if not self._skip:
                self._skip = True
                self.overlong += 1
            del tail[: self._at]
            self._at = 0
        return elements


def _part_bytes(part: dict[str, Any]) -> int:
    """Bytes of output in a part: its text, and the texts of a call or of code."""
    size = 0
    for name, value in part.items():
        if name == "text" and type(value) is str:
            size += text_tokens(value)
        elif name in ("functionCall", "executableCode", "codeExecutionResult"):
            size += len(orjson.dumps(value))
        elif name == "inlineData":
            size += 1  # sound or an image counts as output
    return size
