"""A straight reading of the ordinary chat completion, which nearly all answers are.

It accepts a document whose every member that `ChatReader` interprets has its usual form, and then
fills in the same facts; a property test compares the two. All other documents are left to the
reader, so a case that is missing here costs time and nothing else.
"""

from typing import Any, Final

from gateway.dialects.base import BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN, AnswerFacts
from gateway.dialects.fields import AUTO_TIER, name_tier
from gateway.dialects.openai.chat_reader import BESIDE_CONTENT, count_message
from gateway.dialects.reading.reader import MAX_NOTED_CHARS, publish
from gateway.dialects.reading.tables import OPENAI, usual_openai_figures
from gateway.dialects.reading.text import text_bytes
from gateway.dialects.reading.usage import UsageAccumulator, present

_ODD: Final = frozenset({"error", "type", "detail", "x_groq"})
"""Members of a document that mean an error, or usage in another place."""
_ODD_IN_CHOICE: Final = frozenset({"text", "error", "usage"})

_REASONS: Final = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})


def read_completion(document: Any, facts: AnswerFacts) -> bool:
    """Fill in the facts of an ordinary chat completion with one choice; False for any other document.

    facts: of an answer of which nothing has been read; untouched when False is returned
    """
    try:
        identity, model, [choice] = document["id"], document["model"], document["choices"]
        message, reason, usage = choice["message"], choice["finish_reason"], document["usage"]
        content = message.get("content")
        names = identity + model
        if (
            document["object"] != "chat.completion"
            or len(names) > MAX_NOTED_CHARS
            or not names.isascii()
            or not (identity and model)
            or reason not in _REASONS
            or not _ODD.isdisjoint(document)
            or not _ODD_IN_CHOICE.isdisjoint(choice)
        ):
            return False
    # A member is missing or of another type, or there is not exactly one choice.
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    tier = document.get("service_tier")
    if tier is not None:
        if type(tier) is not str or not tier.isascii() or not 0 < len(tier) <= MAX_NOTED_CHARS:
            return False
        if tier != AUTO_TIER:
            facts.service_tier = name_tier(tier)
    facts.response_id = identity
    facts.response_model = model
    facts.finish_reason = reason
    counted = 0
    if (
        type(content) is str
        and content
        and BESIDE_CONTENT.isdisjoint(message)
        and not message.get("refusal")
    ):
        size = len(content) if content.isascii() else text_bytes(content)
    else:
        size = count_message(message)[0]
    if size >= 0:
        # One answer with output is at least one token.
        counted = facts.counted_output = -(-size // BYTES_PER_TOKEN) or 1
        facts.fewest_output = -(-size // MOST_BYTES_PER_TOKEN) or 1
    usual = usual_openai_figures(usage)
    if usual is None:
        reports = UsageAccumulator(OPENAI)
        if reports.take(usage, counted, final=True):
            publish(reports, facts)
        facts.usage_problem = reports.problem
        return True
    prompt, completion, cached, reasoning = usual
    if cached or reasoning:
        facts.usage = present(
            input=prompt - cached,
            cache_read=cached,
            output=completion - reasoning,
            reasoning=reasoning,
        )
    else:
        facts.usage = {"input": prompt, "output": completion}
    facts.usage_final = facts.input_reported = facts.output_reported = True
    facts.output_reported_at = counted
    return True
