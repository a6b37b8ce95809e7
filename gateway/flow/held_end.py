"""The end of a stream, from its usage chunk on, which waits until the charge is known.

A client that asks for the usage of a stream finds its cost in the same chunk. Everything before that
chunk passes at once; if the settlement takes too long, the chunk passes as it came.
"""

import re
from typing import Final

import orjson

from gateway.dialects.base import AnswerFacts
from gateway.domain.money import format_amount
from gateway.domain.reservation import Settled

MAX_HELD_BYTES: Final = 64 * 1024
"""A longer end passes as it came."""

_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
"""Inside a string the second quote would be escaped."""
_FRAME_END: Final = re.compile(rb"(\r\n\r\n|\n\n|\r\r)")


class HeldEnd:
    """Holds back the end of one stream of chunks."""

    __slots__ = ("_held", "_output", "_passes")

    def __init__(self) -> None:
        self._held = b""
        self._output = 0
        self._passes = False

    @property
    def holds(self) -> bool:
        """Whether something waits."""
        return bool(self._held)

    def take(self, data: bytes, facts: AnswerFacts) -> bytes:
        """The next bytes for the client, which the meter has read into `facts`; return those that pass
        now. Output that follows a usage ends the wait: it was not the last one."""
        if self._passes or not (self._held or facts.usage_final):
            return data
        if self._held:
            if facts.counted_output > self._output:
                passing, self._held = self._held + data, b""
                return passing
            passing, self._held = b"", self._held + data
        else:
            self._output = facts.counted_output
            found = list(_USAGE.finditer(data))
            if not found:
                return data
            before = data.rfind(b"\n\n", 0, found[-1].start())
            begin = 0 if before < 0 else before + 2
            passing, self._held = data[:begin], data[begin:]
        if len(self._held) > MAX_HELD_BYTES:
            return passing + self.release()
        return passing

    def release(self, settled: Settled | None = None) -> bytes:
        """What was held, with the cost in its usage chunk once that is settled. Later bytes pass."""
        held, self._held = self._held, b""
        self._passes = True
        return held if settled is None else _with_cost(held, settled)


def _with_cost(held: bytes, settled: Settled) -> bytes:
    """Write the cost into the last chunk that has a usage; the bytes as they are where there is none."""
    cost = {
        "cost": format_amount(settled.charged_nano),
        "remaining": format_amount(settled.balance_nano),
    }
    parts = _FRAME_END.split(held)
    for at in range(len(parts) - 1, -1, -1):
        chunk = _chunk_with_cost(parts[at], cost)
        if chunk is not None:
            parts[at] = chunk
            return b"".join(parts)
    return held


def _chunk_with_cost(frame: bytes, cost: dict[str, str]) -> bytes | None:
    found = list(_USAGE.finditer(frame))
    if not found or not frame.startswith(b"data:"):
        return None
    try:
        document = orjson.loads(frame[5:])
    except orjson.JSONDecodeError:
        return None
    usage = document.get("usage") if type(document) is dict else None
    if type(usage) is not dict or "credits" in usage:
        return None
    if len(found) > 1:
        return b"data: " + orjson.dumps({**document, "usage": {**usage, "credits": cost}})
    # Into the text, so that every other byte stays as the upstream sent it.
    end = found[0].end()
    member = b'"credits":' + orjson.dumps(cost) + (b"," if usage else b"")
    return frame[:end] + member + frame[end:]
