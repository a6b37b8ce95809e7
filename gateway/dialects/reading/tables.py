"""The spellings of usage, dialect by dialect, and what each API includes in what.

A new spelling is a row here. Sources: the usage sections of platform.openai.com/docs/api-reference,
docs.anthropic.com/en/api/messages and ai.google.dev/api/generate-content, and the servers named in a row's
comment.
"""

from typing import Any, Final

from gateway.dialects.reading.numbers import MAX_REPORTED
from gateway.dialects.reading.usage import (
    AUDIO_IN,
    AUDIO_OUT,
    CACHED,
    CALLS,
    COMPLETION,
    IMAGE_IN,
    MISSED,
    PROMPT,
    REASONING,
    SECONDS,
    TOOL_IN,
    TOTAL,
    WRITTEN,
    WRITTEN_1H,
    WRITTEN_5M,
    Figures,
    Modalities,
    Names,
    Pools,
    Suffix,
    UsageTable,
    UsualFigures,
    present,
)

_INPUT_DETAILS: Final[Names] = {
    "cached_tokens": CACHED,
    "cache_write_tokens": WRITTEN,
    "cached_write_tokens": WRITTEN,
    "cache_creation_tokens": WRITTEN,
    "audio_tokens": AUDIO_IN,
    "image_tokens": IMAGE_IN,
}
_OUTPUT_DETAILS: Final[Names] = {"reasoning_tokens": REASONING, "audio_tokens": AUDIO_OUT}
_CACHE_CREATION: Final[Names] = {
    "ephemeral_5m_input_tokens": WRITTEN_5M,
    "ephemeral_1h_input_tokens": WRITTEN_1H,
}

OPENAI_NAMES: Final[Names] = {
    "prompt_tokens": PROMPT,
    "input_tokens": PROMPT,
    "completion_tokens": COMPLETION,
    "output_tokens": COMPLETION,
    "total_tokens": TOTAL,
    "cached_tokens": CACHED,  # Kimi
    "prompt_cache_hit_tokens": CACHED,  # DeepSeek
    "prompt_cache_miss_tokens": MISSED,
    "cache_read_input_tokens": CACHED,  # LiteLLM, Bedrock
    "cache_creation_input_tokens": WRITTEN,
    "cached_write_tokens": WRITTEN,
    "reasoning_tokens": REASONING,
    "prompt_tokens_details": _INPUT_DETAILS,
    "input_tokens_details": _INPUT_DETAILS,
    "input_token_details": _INPUT_DETAILS,  # transcriptions
    "completion_tokens_details": _OUTPUT_DETAILS,
    "output_tokens_details": _OUTPUT_DETAILS,
    "seconds": SECONDS,  # transcriptions by duration
    "prompt_audio_seconds": SECONDS,  # Mistral
}

ANTHROPIC_NAMES: Final[Names] = {
    "input_tokens": PROMPT,
    "cache_read_input_tokens": CACHED,
    "cache_creation_input_tokens": WRITTEN,
    "cache_creation": _CACHE_CREATION,
    "output_tokens": COMPLETION,
    "output_tokens_details": {"thinking_tokens": REASONING},
    "server_tool_use": Suffix("_requests", CALLS),
}

_INPUT_MODALITIES: Final = Modalities({"AUDIO": AUDIO_IN, "IMAGE": IMAGE_IN, "VIDEO": IMAGE_IN})
_OUTPUT_MODALITIES: Final = Modalities({"AUDIO": AUDIO_OUT})

GEMINI_NAMES: Final[Names] = {
    "promptTokenCount": PROMPT,
    "prompt_token_count": PROMPT,
    "cachedContentTokenCount": CACHED,
    "cached_content_token_count": CACHED,
    "toolUsePromptTokenCount": TOOL_IN,
    "tool_use_prompt_token_count": TOOL_IN,
    "candidatesTokenCount": COMPLETION,
    "candidates_token_count": COMPLETION,
    "responseTokenCount": COMPLETION,
    "thoughtsTokenCount": REASONING,
    "thoughts_token_count": REASONING,
    "totalTokenCount": TOTAL,
    "total_token_count": TOTAL,
    "promptTokensDetails": _INPUT_MODALITIES,
    "prompt_tokens_details": _INPUT_MODALITIES,
    "candidatesTokensDetails": _OUTPUT_MODALITIES,
    "candidates_tokens_details": _OUTPUT_MODALITIES,
}


def openai_pools(figures: Figures, counted_output: int) -> Pools:
    """Pools of an API whose prompt and completion include their details."""
    get = figures.get
    prompt, completion, total = get(PROMPT, 0), get(COMPLETION, 0), get(TOTAL, 0)
    if prompt and completion and len(figures) == (3 if total == prompt + completion else 2):
        return Pools({"input": prompt, "output": completion}, True, True)  # as most answers say it
    cached, written, reasoning = get(CACHED, 0), get(WRITTEN, 0), get(REASONING, 0)
    if MISSED in figures:
        prompt = max(prompt, cached + figures[MISSED])
    heard, seen, spoken = get(AUDIO_IN, 0), get(IMAGE_IN, 0), get(AUDIO_OUT, 0)
    unexplained = False
    if 0 < prompt < max(cached, written):  # larger than what should include it: it is not included
        prompt += cached + written
    if 0 < completion < reasoning:
        completion += reasoning
    if not prompt and not completion and total:
        # The total alone. What was counted is output, the rest is input.
        completion = min(counted_output, total)
        prompt = total - completion
        unexplained = completion > 0
    elif not prompt and total > completion:
        prompt = total - completion
    elif not completion and total > prompt:
        completion = total - prompt
        if COMPLETION in figures:  # it says zero
            unexplained = reasoning != completion
            reasoning = completion
    elif (surplus := total - prompt - completion) > 0:
        beside = cached + written
        if surplus == reasoning:
            completion += reasoning
        elif surplus == beside:
            prompt += beside
        elif surplus == reasoning + beside:
            completion += reasoning
            prompt += beside
        elif SECONDS in figures:  # Mistral: the audio's tokens are in the total alone
            prompt += surplus
            heard += surplus
        else:
            unexplained = True
            completion += surplus
            reasoning += surplus
    if heard + seen > prompt:
        heard = seen = 0  # a breakdown that does not fit breaks nothing down
    reasoning = min(reasoning, completion)
    spoken = min(spoken, completion - reasoning)
    # Cached audio or images may be reported twice; the cheaper class gives way.
    written = min(written, prompt - heard - seen)
    cached = min(cached, prompt - heard - seen - written)
    usage = present(
        input=prompt - cached - written - heard - seen,
        cache_read=cached,
        cache_write=written,
        audio_input=heard,
        image_input=seen,
        output=completion - reasoning - spoken,
        reasoning=reasoning,
        audio_output=spoken,
        second=get(SECONDS, 0),
    )
    return Pools(usage, prompt > 0, completion > 0, unexplained)


def anthropic_pools(figures: Figures, counted_output: int) -> Pools:  # noqa: ARG001 - no total
    """Pools of an API whose input excludes the cache."""
    get = figures.get
    output, thinking = get(COMPLETION, 0), get(REASONING, 0)
    thinking = min(thinking, output)
    long_lived = get(WRITTEN_1H, 0)
    written = max(get(WRITTEN, 0), get(WRITTEN_5M, 0) + long_lived)
    usage = present(
        input=get(PROMPT, 0),
        cache_read=get(CACHED, 0),
        cache_write=written - long_lived,
        cache_write_1h=long_lived,
        output=output - thinking,
        reasoning=thinking,
        tool_call=get(CALLS, 0),
    )
    return Pools(usage, get(PROMPT, 0) + get(CACHED, 0) + written > 0, output > 0)


def gemini_pools(figures: Figures, counted_output: int) -> Pools:
    """Pools of `usageMetadata`."""
    get = figures.get
    prompt, tools, total = get(PROMPT, 0), get(TOOL_IN, 0), get(TOTAL, 0)
    output, thoughts = get(COMPLETION, 0), get(REASONING, 0)
    unexplained = False
    if thoughts and total == prompt + tools + output:
        if thoughts <= output:
            output -= thoughts  # counted within: the total says so
    elif total > prompt + tools + output + thoughts:
        surplus = total - prompt - tools - output - thoughts
        if not prompt:
            spare = 0 if output + thoughts else min(counted_output, surplus)
            output += spare
            prompt = surplus - spare
            unexplained = spare > 0
        elif not output and COMPLETION not in figures:
            output = surplus
        else:
            thoughts += surplus
            unexplained = True
    cached, spoken = get(CACHED, 0), get(AUDIO_OUT, 0)
    heard, seen = get(AUDIO_IN, 0), get(IMAGE_IN, 0)
    if 0 < prompt < cached:
        prompt += cached
    if heard + seen > prompt:
        heard = seen = 0  # a breakdown that does not fit breaks nothing down
    spoken = min(spoken, output)
    # Cached audio or images may be reported twice; the cheaper class gives way.
    cached = min(cached, prompt - heard - seen)
    usage = present(
        input=prompt - cached - heard - seen + tools,
        cache_read=cached,
        audio_input=heard,
        image_input=seen,
        output=output - spoken,
        reasoning=thoughts,
        audio_output=spoken,
    )
    return Pools(usage, prompt > 0, output + thoughts > 0, unexplained)


_UNUSUAL: Final = frozenset(OPENAI_NAMES) - {
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
}


def usual_openai_figures(report: dict[str, Any]) -> UsualFigures | None:
    """The figures of a usual report (see `UsageTable.usual`)."""
    cached = reasoning = 0
    try:
        prompt, completion = report["prompt_tokens"], report["completion_tokens"]
        total = report["total_tokens"]
        if (
            type(prompt) is not int
            or type(completion) is not int
            or type(total) is not int
            or prompt + completion != total
            or not 0 < prompt < total <= MAX_REPORTED
            or not _UNUSUAL.isdisjoint(report)
        ):
            return None
        get = report.get
        if (details := get("prompt_tokens_details")) and any(details.values()):
            cached = _only(details, "cached_tokens", prompt)
        if (details := get("completion_tokens_details")) and any(details.values()):
            reasoning = _only(details, "reasoning_tokens", completion)
    except (KeyError, AttributeError, TypeError):  # details of another type have no values
        return None
    # Below zero: the details say something else.
    return None if cached < 0 or reasoning < 0 else (prompt, completion, cached, reasoning)


def _only(details: dict[str, Any], name: str, most: int) -> int:
    """The figure of this name if all others are zero or absent, else −1. most: what it is part of."""
    figure = details.get(name)
    if type(figure) is int and 0 < figure <= most and sum(map(bool, details.values())) == 1:
        return figure
    return -1


OPENAI: Final = UsageTable(OPENAI_NAMES, openai_pools, usual_openai_figures)
"""Chat completions, completions, embeddings, responses, images, transcriptions."""
ANTHROPIC: Final = UsageTable(ANTHROPIC_NAMES, anthropic_pools)
GEMINI: Final = UsageTable(GEMINI_NAMES, gemini_pools)
