"""A straight reading of the ordinary complete message, which most answers without streaming are.

It accepts a document whose every member that `MessagesReader` interprets has its usual form, and then
fills in the same facts; a property test compares the two. All other documents are left to the
reader, so a case that is missing here costs time and nothing else.
"""

from typing import Any, Final

from gateway.dialects.anthropic.reader import block_bytes
from gateway.dialects.base import BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN, AnswerFacts
from gateway.dialects.fields import AUTO_TIER, name_tier
from gateway.dialects.reading.numbers import MAX_REPORTED
from gateway.dialects.reading.reader import MAX_NOTED_CHARS, publish
from gateway.dialects.reading.tables import ANTHROPIC, ANTHROPIC_NAMES
from gateway.dialects.reading.usage import UsageAccumulator, present

_ODD: Final = frozenset({"error", "object", "detail"})
"""Members that mean an error in some server's documents."""
_BLOCKS: Final = frozenset({"text", "thinking", "tool_use"})
"""Blocks that hold output and no hosted call."""
_REASONS: Final = frozenset({"end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"})
_FLAT: Final = {
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
}
_NESTED: Final = frozenset(ANTHROPIC_NAMES) - _FLAT


def read_message(document: Any, facts: AnswerFacts) -> bool:
    """Fill in the facts of an ordinary message; False for any other document.

    facts: of an answer of which nothing has been read; untouched when False is returned
    """
    frames = size = 0
    try:
        identity, model, reason = document["id"], document["model"], document["stop_reason"]
        usage = document["usage"]
        names = identity + model
        if (
            document["type"] != "message"
            or len(names) > MAX_NOTED_CHARS
            or not names.isascii()
            or not (identity and model)
            or reason not in _REASONS
            or not _ODD.isdisjoint(document)
        ):
            return False
        for block in document["content"]:
            if block["type"] not in _BLOCKS:
                return False
            if carried := block_bytes(block):
                frames += 1
                size += carried
        tier = usage.get("service_tier")
    # A member is missing or of another type.
    except (KeyError, TypeError, AttributeError):
        return False
    if tier is not None:
        if type(tier) is not str or not tier.isascii() or not 0 < len(tier) <= MAX_NOTED_CHARS:
            return False
        if tier != AUTO_TIER:
            facts.service_tier = name_tier(tier)
    facts.response_id = identity
    facts.response_model = model
    facts.finish_reason = reason
    # A block with output is at least one token.
    counted = facts.counted_output = max(frames, -(-size // BYTES_PER_TOKEN))
    facts.fewest_output = max(frames, -(-size // MOST_BYTES_PER_TOKEN))
    pools = _usual_pools(usage)
    if pools is None:
        reports = UsageAccumulator(ANTHROPIC)
        if reports.take(usage, counted, final=True):
            publish(reports, facts)
        facts.usage_problem = reports.problem
        return True
    facts.usage = pools
    facts.usage_final = facts.input_reported = facts.output_reported = True
    facts.output_reported_at = counted
    return True


def _usual_pools(usage: dict[str, Any]) -> dict[str, int] | None:
    """The pools of a usual report: input and output above zero, the cache in two flat figures, and
    all else zero or absent; None for any other report."""
    get = usage.get
    prompt, output = get("input_tokens"), get("output_tokens")
    read, written = get("cache_read_input_tokens", 0), get("cache_creation_input_tokens", 0)
    if (
        type(prompt) is not int
        or type(output) is not int
        or type(read) is not int
        or type(written) is not int
        or not 0 < prompt <= MAX_REPORTED
        or not 0 < output <= MAX_REPORTED
        or not 0 <= read <= MAX_REPORTED
        or not 0 <= written <= MAX_REPORTED
    ):
        return None
    for name in _NESTED.intersection(usage):
        nested = usage[name]
        if nested is not None and (type(nested) is not dict or any(nested.values())):
            return None
    if read or written:
        return present(input=prompt, cache_read=read, cache_write=written, output=output)
    return {"input": prompt, "output": output}
