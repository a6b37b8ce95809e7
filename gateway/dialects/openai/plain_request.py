"""A straight reading of the plain chat request: texts by role, sampling, one output maximum.

It accepts a document in which every field has its usual form and none needs a decision, and then
finds the same facts as `OpenAIChat.read_request`; a property test compares the two. All other
documents are left to that one, which also says what is wrong with them.
"""

from itertools import chain
from operator import itemgetter
from typing import Any, Final

from gateway.dialects.base import ReadOptions, RequestFacts
from gateway.dialects.bounds import text_tokens
from gateway.dialects.fields import MAX_MODEL_CHARS, MAX_OUTPUT_TOKENS

PLAIN: Final = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "metadata",
        "reasoning_effort",
        "verbosity",
        "parallel_tool_calls",
    }
)
"""Fields that are read below, and those that neither cost anything nor reach the prompt."""

_ROLE_AND_CONTENT: Final = itemgetter("role", "content")
_TWO: Final = {2}


def read_plain(document: Any, options: ReadOptions) -> RequestFacts | None:
    """The facts of a plain chat request; None for any other document.

    Works message by message in C: the loop over a long conversation is most of the reading.
    """
    if type(document) is not dict or not PLAIN.issuperset(document):
        return None
    get = document.get
    try:
        model, messages = document["model"], document["messages"]
        if type(messages) is not list or set(map(len, messages)) != _TWO:
            return None
        # Joining raises TypeError for what is no string; no list or string has these members.
        text = "".join(chain.from_iterable(map(_ROLE_AND_CONTENT, messages)))
    except (KeyError, TypeError):
        return None
    if type(model) is not str or not 0 < len(model) <= MAX_MODEL_CHARS or not model.isprintable():
        return None
    stream = get("stream", False)
    if stream is not False and stream is not True:
        return None
    wants_usage = False
    if (given := get("stream_options")) is not None:
        if type(given) is not dict or len(given) != 1:
            return None
        asked = given.get("include_usage")
        if asked is not True and asked is not False:
            return None
        wants_usage = asked
    maximum = get("max_tokens")
    if maximum is None:
        maximum = get("max_completion_tokens")
    elif "max_completion_tokens" in document:
        return None
    if maximum is not None and (type(maximum) is not int or not 1 <= maximum <= MAX_OUTPUT_TOKENS):
        return None
    size = len(text) if text.isascii() else text_tokens(text)
    tokens = size + options.template_overhead_tokens * (1 + len(messages))
    return RequestFacts(
        model,
        stream,
        tokens,
        maximum,
        wants_usage=wants_usage,
        document=document,
        input_own=tokens,
    )
