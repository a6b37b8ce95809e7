"""What every dialect's reader of answers shares: facts, counts, reports, errors.

A reader says what a document or an event means. How the bytes become documents is `meters.py`.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, Final

from gateway.dialects.base import BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN, AnswerFacts, Limit
from gateway.dialects.fields import AUTO_TIER, name_tier
from gateway.dialects.reading.repeated import RepeatedFrame
from gateway.dialects.reading.usage import UsageAccumulator, UsageTable

MAX_NOTED_CHARS: Final = 256
"""Names that an upstream reports (model, id, finish reason) are kept up to this length."""
MAX_CALLS: Final = 10_000
"""Hosted calls of one answer that are distinguished by id."""

ERROR_NAMES: Final = frozenset({"error", "object", "type", "detail"})
"""Members by which a document says that it is an error."""
_MAY_BE_ERROR: Final = ERROR_NAMES - {"object"}


class AnswerReader(ABC):
    """Reads the documents of one answer into `facts`.

    table:     how this dialect reports usage
    kept:      names of members that are read; of an answer too long to be kept, the rest is skipped
    complete:  names of members that are read with everything below them
    contents:  members of the root that hold an answer; a document with one of them is no error
    """

    table: UsageTable
    kept: frozenset[str]
    complete: frozenset[str]
    contents: frozenset[str]

    def __init__(self) -> None:
        self.facts = AnswerFacts()
        self.repeated = RepeatedFrame()
        self._reports = UsageAccumulator(self.table)
        self._text_frames = 0
        self._text_bytes = 0
        self._calls: dict[str, bool] = {}  # id → whether it is billed

    @abstractmethod
    def read_document(self, document: dict[str, Any]) -> None:
        """Take the facts from an answer that is one document."""

    def read_event(self, document: dict[str, Any], frame: bytes) -> bool:  # noqa: ARG002
        """Take the facts from one event of a stream. True when it is a usage chunk, which a client
        that did not ask for it must not get. Where the API has no streams, each event is read as an
        answer."""
        self.read_document(document)
        return False

    # Output

    def count_text(self, text_bytes: int, frames: int = 1) -> None:
        """Frames (or answers, or parts) that carry output; audio and images have no bytes."""
        self._text_frames += frames
        self._text_bytes += text_bytes

    def update_count(self) -> None:
        """Bring `facts.counted_output` up to date: a token per frame, or per four bytes of text."""
        frames, text_bytes, facts = self._text_frames, self._text_bytes, self.facts
        by_bytes = -(-text_bytes // BYTES_PER_TOKEN)
        at_least = -(-text_bytes // MOST_BYTES_PER_TOKEN)
        facts.counted_output = frames if frames > by_bytes else by_bytes
        facts.fewest_output = frames if frames > at_least else at_least

    def count_covered(self, text_bytes: int, frames: int, limit: Limit | None) -> bool:
        """Count frames of text unless they pass the limit. Returns whether they were counted."""
        frames += self._text_frames
        text_bytes += self._text_bytes
        if limit is not None and (frames > limit.most_output or text_bytes > limit.most_bytes):
            return False
        self._text_frames = frames
        self._text_bytes = text_bytes
        # What `update_count` does, without a call: this is the work for each frame of a paced stream.
        by_bytes = -(-text_bytes // BYTES_PER_TOKEN)
        at_least = -(-text_bytes // MOST_BYTES_PER_TOKEN)
        facts = self.facts
        facts.counted_output = frames if frames > by_bytes else by_bytes
        facts.fewest_output = frames if frames > at_least else at_least
        return True

    def room(self, limit: Limit | None) -> tuple[float, float]:
        """How many texts, and bytes of text, come within a limit; negative beyond it."""
        if limit is None:
            return math.inf, math.inf
        return limit.most_output - self._text_frames, limit.most_bytes - self._text_bytes

    # Usage

    def report(self, usage: Any, *, final: bool) -> None:
        """Take one report of usage, wherever it stood."""
        if usage is None:
            return
        self.update_count()
        reports, facts = self._reports, self.facts
        if reports.take(usage, facts.counted_output, final=final):
            publish(reports, facts)
        facts.usage_problem = reports.problem

    def done(self) -> None:
        """The stream said that it is complete: a running figure was the last one."""
        if self._reports.says_anything:
            self.facts.usage_final = self._reports.final = True

    # Hosted calls

    def see_call(self, call_id: Any = None, *, billed: bool = True) -> None:
        """A call of a hosted tool; each id counts once, and one that failed is not billed."""
        if type(call_id) is not str:
            call_id = f"#{len(self._calls)}"
        if call_id in self._calls or len(self._calls) < MAX_CALLS:
            self._calls[call_id] = billed and self._calls.get(call_id, True)
            self.facts.hosted_calls = sum(self._calls.values())

    # What else an answer says

    def note(self, identity: Any, model: Any) -> None:
        """The answer's id and the model that it names."""
        facts = self.facts
        if facts.response_id is None and isinstance(identity, str) and identity:
            facts.response_id = _noted(identity)
        if facts.response_model is None and isinstance(model, str) and model:
            facts.response_model = _noted(model)

    def note_tier(self, tier: Any) -> None:
        """The service tier that answers; the last one counts, and an echoed `auto` is none."""
        if isinstance(tier, str) and tier and tier != AUTO_TIER:
            self.facts.service_tier = name_tier(_noted(tier))

    def finished(self, reason: Any) -> None:
        """Why the output ended."""
        if isinstance(reason, str) and reason:
            self.facts.finish_reason = _noted(reason)

    def note_error(self, document: dict[str, Any]) -> None:
        """Whether the document says that it is an error: OpenAI, Anthropic, Google, vLLM, FastAPI."""
        if _MAY_BE_ERROR.isdisjoint(document) and document.get("object") != "error":
            return
        kind = document.get("type")
        if (
            document.get("error")
            or document.get("object") == "error"
            or (isinstance(kind, str) and (kind == "error" or kind.endswith(("_error", "Error"))))
            or (document.get("detail") and not any(map(document.get, self.contents)))
        ):
            self.facts.error = True


def _noted(text: str) -> str:
    """A name as it is kept: bounded, and text that can be written anywhere."""
    return text[:MAX_NOTED_CHARS].encode("utf-8", "replace").decode()


def publish(reports: UsageAccumulator, facts: AnswerFacts) -> None:
    """Write what the reports say together, of which at least one was usable, into the facts."""
    pools = reports.pools
    assert pools is not None, "a report was usable"
    facts.usage = pools.usage
    facts.usage_final = reports.final
    facts.input_reported = pools.input_reported
    facts.output_reported = pools.output_reported
    facts.output_reported_at = reports.counted_at
    facts.flags = ("usage_unexplained",) if pools.unexplained else ()
