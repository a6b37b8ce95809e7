"""The two meters: of a whole JSON answer, and of a stream of events.

A dialect's own meter says what a document or a frame means; passing bytes on, bounding memory
and counting are done here.
"""

from abc import abstractmethod
from typing import Any, Final

import orjson

from gateway.dialects.base import AnswerFacts, Meter
from gateway.dialects.fields import AUTO_TIER, name_tier
from gateway.dialects.repeated import BACKSLASH, QUOTE, RepeatedFrame
from gateway.dialects.reported import BadUsage
from gateway.dialects.sse import FrameSplitter, data_of
from gateway.domain.usage import Usage

MAX_WHOLE_BYTES: Final = 8 * 1024 * 1024
"""A JSON answer up to this size is read whole; of a longer one only the end, for its usage."""
TAIL_BYTES: Final = 64 * 1024
MAX_HIDDEN_BYTES: Final = 16 * 1024
"""A usage chunk is shorter than this; a longer frame is passed on before it is complete."""
MAX_NOTED_CHARS: Final = 256
"""Names that an upstream reports (model, id, finish reason) are kept up to this length."""

BYTES_PER_TOKEN: Final = 4


class CountedAnswer:
    """What both meters do with what they find."""

    __slots__ = ("_text_bytes", "_text_frames", "facts")

    def __init__(self) -> None:
        self.facts = AnswerFacts()
        self._text_frames = 0
        self._text_bytes = 0

    def _count_text(self, text_bytes: int) -> None:
        """A frame (or an answer) that carries output; sound or images count no bytes."""
        self._text_frames += 1
        self._text_bytes += text_bytes

    def _update_count(self) -> None:
        by_bytes = -(-self._text_bytes // BYTES_PER_TOKEN)
        frames = self._text_frames
        self.facts.counted_output = frames if frames > by_bytes else by_bytes

    def _take_usage(self, usage: Usage, *, final: bool) -> None:
        facts = self.facts
        facts.usage = usage
        facts.usage_final = final
        facts.usage_problem = None

    def _refuse_usage(self, problem: BadUsage) -> None:
        facts = self.facts
        facts.usage_final = False
        facts.usage_problem = str(problem)

    def _note(self, identity: Any, model: Any) -> None:
        facts = self.facts
        if facts.response_id is None and type(identity) is str and identity:
            facts.response_id = identity[:MAX_NOTED_CHARS]
        if facts.response_model is None and type(model) is str and model:
            facts.response_model = model[:MAX_NOTED_CHARS]

    def _note_tier(self, tier: Any) -> None:
        """The service tier that answers; the last word counts, and an echoed `auto` is none."""
        if type(tier) is str and tier and tier != AUTO_TIER:
            self.facts.service_tier = name_tier(tier[:MAX_NOTED_CHARS])

    def _finished(self, reason: Any) -> None:
        if type(reason) is str and reason:
            self.facts.finish_reason = reason[:MAX_NOTED_CHARS]


class JsonMeter(CountedAnswer, Meter):
    """Reads a whole answer at its end; bytes pass at once."""

    __slots__ = ("_kept", "_pieces", "_size")

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._kept = 0
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """Keep the bytes (of an answer that is too long, its end) and pass them on."""
        self._pieces.append(data)
        self._kept += len(data)
        self._size += len(data)
        if self._kept > MAX_WHOLE_BYTES:
            self._pieces = [b"".join(self._pieces)[-TAIL_BYTES:]]
            self._kept = TAIL_BYTES
        return data

    def finish(self) -> bytes:
        """Read what was kept. Nothing was held back."""
        kept = b"".join(self._pieces)
        self._pieces.clear()
        if self._size > MAX_WHOLE_BYTES:
            self._read_tail(kept)
        else:
            self._read_whole(kept)
        self._update_count()
        return b""

    def _read_whole(self, body: bytes) -> None:
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            return  # a page of a proxy, or an answer that was cut: no usage, nothing counted
        if type(document) is not dict:
            return
        if document.get("error"):
            self.facts.error = True
        self._read(document)

    def _read_tail(self, tail: bytes) -> None:
        """The usage from the end of an answer too long to be kept (embeddings by the thousand).

        Inside a JSON string the quotes around `usage` would be escaped, so the last `"usage"`
        followed by an object is the member itself.
        """
        self._text_bytes = self._size
        at = tail.rfind(b'"usage"')
        begin = tail.find(b"{", at) if at >= 0 else -1
        if begin < 0 or tail[at + 7 : begin].strip() != b":":
            return
        end = begin
        while (end := tail.find(b"}", end) + 1) > 0:
            try:
                usage = orjson.loads(tail[begin:end])
            except orjson.JSONDecodeError:
                continue
            self._read({"usage": usage})
            return

    @abstractmethod
    def _read(self, document: dict[str, Any]) -> None:
        """Take the facts from the answer's document."""


class SseMeter(CountedAnswer, Meter):
    """Reads a stream frame by frame.

    hides: usage chunks are removed; then (and only then) the bytes of a begun frame wait, while
           that frame could still turn out to be one.
    """

    __slots__ = ("_hides", "_passed", "_repeated", "_splitter")

    def __init__(self, *, hides: bool = False) -> None:
        super().__init__()
        self._splitter = FrameSplitter()
        self._repeated = RepeatedFrame()
        self._hides = hides
        self._passed = 0  # how many bytes of the begun frame the client already has

    def feed(self, data: bytes) -> bytes:
        """Read the frames that `data` completes; return what passes on."""
        splitter = self._splitter
        tail = splitter.tail
        held = bytes(tail) if tail and self._hides and not self._passed else b""
        overlong = splitter.overlong
        frames = splitter.push(data)
        hidden: list[int] | None = None
        if frames:
            hidden = self._read_frames(frames, splitter.readable)
            self._update_count()
        if not self._hides or (hidden is None and not tail and not held and not self._passed):
            return data
        if splitter.overlong > overlong:
            self._passed = len(tail)
            return held + data
        return self._passing(data, frames, hidden or [])

    def _read_frames(self, frames: list[bytes], first: int) -> list[int] | None:
        """Read frames from the first readable one on; return which are to be hidden."""
        hidden: list[int] | None = None
        repeated = self._repeated
        before, after = repeated.before, repeated.after
        begin, end = len(before), -len(after)
        texts = text_bytes = 0
        for at, frame in enumerate(frames):
            # The usual case of `RepeatedFrame.text_bytes`, without a call: half of the cost.
            if frame[:begin] == before and frame.endswith(after):
                text = frame[begin:end]
                if text and QUOTE not in text and BACKSLASH not in text:
                    texts += 1
                    text_bytes += len(text)
                    continue
            size = repeated.text_bytes(frame) if repeated.between else -1
            if size > 0:
                texts += 1
                text_bytes += size
            elif size < 0 and at >= first:
                if self._read_frame(frame):
                    hidden = [at] if hidden is None else [*hidden, at]
                before, after = repeated.before, repeated.after
                begin, end = len(before), -len(after)
        self._text_frames += texts
        self._text_bytes += text_bytes
        return hidden

    def finish(self) -> bytes:
        """Read a last frame that was never ended; return what was held back of it."""
        splitter = self._splitter
        held = bytes(splitter.tail[self._passed :]) if self._hides else b""
        rest = splitter.rest()
        if rest and self._read_frame(rest) and not self._passed:
            held = b""
        self._update_count()
        self._passed = 0
        facts = self.facts
        if splitter.overlong and not facts.usage_final and facts.usage_problem is None:
            facts.usage_problem = "a frame was too long to be read"
        return held

    def _passing(self, data: bytes, frames: list[bytes], hidden: list[int]) -> bytes:
        splitter = self._splitter
        tail = splitter.tail
        separator = splitter.separator
        passed = self._passed
        if not frames:
            if passed:
                self._passed = len(tail)
                return data
            if not _may_be_hidden(tail):
                self._passed = len(tail)
                return bytes(tail)
            return b""
        if passed and 0 in hidden:
            hidden.remove(0)  # its first bytes are with the client already
        visible = b"".join(
            [frame + separator for at, frame in enumerate(frames) if at not in hidden]
        )[passed:]
        if _may_be_hidden(tail):
            self._passed = 0
            return visible
        self._passed = len(tail)
        return visible + tail

    def _read_frame(self, frame: bytes) -> bool:
        data = data_of(frame)
        if not data:
            return False
        if data == b"[DONE]":
            self._done()
            return False
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            return False  # not for us to judge: it passes, and counts nothing
        return type(document) is dict and self._read(document, frame)

    def _done(self) -> None:
        """The stream said that it is complete: a running figure was the last one."""
        if self.facts.usage is not None and self.facts.usage_problem is None:
            self.facts.usage_final = True

    @abstractmethod
    def _read(self, document: dict[str, Any], frame: bytes) -> bool:
        """Take the facts from one event; True when it is a usage chunk to be hidden."""


def _may_be_hidden(tail: bytearray) -> bool:
    """Whether a begun frame can still be a usage chunk: those have no choices.

    A quote inside a JSON string is escaped, so the pattern is the member itself.
    """
    return (
        len(tail) <= MAX_HIDDEN_BYTES
        and b'"choices":[{' not in tail
        and b'"choices": [{' not in tail
    )
