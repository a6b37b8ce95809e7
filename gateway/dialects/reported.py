"""What providers report as usage, read into exclusive pools.

Law (docs of each API, "usage"):

- OpenAI chat, completions, embeddings: `prompt_tokens` includes cached, cache-written, audio and
  image tokens; `completion_tokens` includes reasoning and audio tokens.
- OpenAI Responses: the same with `input_tokens` and `output_tokens`.
- Anthropic: `input_tokens` excludes cache reads and writes; `output_tokens` is cumulative and
  includes thinking.
- Gemini: `promptTokenCount` includes `cachedContentTokenCount`; beside it stand
  `toolUsePromptTokenCount`, `candidatesTokenCount` and `thoughtsTokenCount`, which exclude each other.

A figure that is negative, missing, not a whole number or absurd makes the whole report unusable:
nothing of it is taken.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.domain.usage import Usage

MAX_REPORTED: Final = 1_000_000_000
"""No single request uses more of one class; a larger figure is an error of the provider."""


class BadUsage(Exception):
    """A report cannot be used; the message says why."""


def read_openai_usage(report: Any, *, output_expected: bool = True) -> Usage:
    """Usage of chat completions, completions and embeddings. Raises BadUsage.

    output_expected: whether `completion_tokens` must be there (embeddings have none)
    """
    if type(report) is not dict:
        raise BadUsage("usage is not an object")
    prompt = _count(report, "prompt_tokens", required=True)
    completion = _count(report, "completion_tokens", required=output_expected)
    given = report.get("completion_tokens_details")
    if given is not None and type(given) is dict:
        # Some providers report reasoning beside the completion, not within; the total tells.
        reasoning = _count(given, "reasoning_tokens")
        total = report.get("total_tokens")
        if reasoning and total == prompt + completion + reasoning:
            completion += reasoning
    return _pools(
        prompt, completion, report.get("prompt_tokens_details"), given, "prompt", "completion"
    )


def read_responses_usage(report: Any) -> Usage:
    """Usage of the Responses API. Raises BadUsage."""
    if type(report) is not dict:
        raise BadUsage("usage is not an object")
    return _pools(
        _count(report, "input_tokens", required=True),
        _count(report, "output_tokens", required=True),
        report.get("input_tokens_details"),
        report.get("output_tokens_details"),
        "input",
        "output",
    )


def read_anthropic_usage(report: Any) -> Usage:
    """Usage of the Messages API; of a stream, its reports merged. Raises BadUsage."""
    if type(report) is not dict:
        raise BadUsage("usage is not an object")
    output = _count(report, "output_tokens", required=True)
    thinking = _count(_details(report.get("output_tokens_details")), "thinking_tokens")
    if thinking > output:
        raise BadUsage("thinking_tokens exceed output_tokens")
    split = _details(report.get("cache_creation"))
    long_lived = _count(split, "ephemeral_1h_input_tokens")
    short_lived = _count(split, "ephemeral_5m_input_tokens")
    written = max(_count(report, "cache_creation_input_tokens"), long_lived + short_lived)
    tools = _details(report.get("server_tool_use"))
    calls = sum(_count(tools, name) for name in tools if name.endswith("_requests"))
    return _present(
        input=_count(report, "input_tokens", required=True),
        cache_read=_count(report, "cache_read_input_tokens"),
        cache_write=written - long_lived,
        cache_write_1h=long_lived,
        output=output - thinking,
        reasoning=thinking,
        tool_call=calls,
    )


def read_gemini_usage(report: Any) -> Usage:
    """`usageMetadata` of an answer or of a chunk. Raises BadUsage."""
    if type(report) is not dict:
        raise BadUsage("usageMetadata is not an object")
    prompt = _count(report, "promptTokenCount", required=True)
    cached = _count(report, "cachedContentTokenCount")
    tools = _count(report, "toolUsePromptTokenCount")
    output = _count(report, "candidatesTokenCount")
    thoughts = _count(report, "thoughtsTokenCount")
    if thoughts and report.get("totalTokenCount") == prompt + tools + output:
        if thoughts > output:
            raise BadUsage("thoughtsTokenCount exceeds candidatesTokenCount")
        output -= thoughts  # a provider that counts thoughts within; the total tells
    heard, seen = _modalities(report.get("promptTokensDetails"), ("AUDIO",), ("IMAGE", "VIDEO"))
    spoken, _ = _modalities(report.get("candidatesTokensDetails"), ("AUDIO",), ())
    if max(cached, heard + seen) > prompt or spoken > output:
        raise BadUsage("the details of the usage exceed it")
    # Cached sound or images may be told twice; the cheaper class gives way.
    cached = min(cached, prompt - heard - seen)
    return _present(
        input=prompt - cached - heard - seen + tools,
        cache_read=cached,
        audio_input=heard,
        image_input=seen,
        output=output - spoken,
        reasoning=thoughts,
        audio_output=spoken,
    )


def _modalities(details: Any, *families: tuple[str, ...]) -> tuple[int, ...]:
    """Tokens of each family in a list of `{modality, tokenCount}`. Raises BadUsage."""
    if details is None:
        return (0,) * len(families)
    if type(details) is not list or not all(type(each) is dict for each in details):
        raise BadUsage("details of the usage are not a list of objects")
    return tuple(
        sum(_count(each, "tokenCount") for each in details if each.get("modality") in family)
        for family in families
    )


def _pools(
    prompt: int, completion: int, prompt_details: Any, output_details: Any, first: str, second: str
) -> Usage:
    if _tell_nothing(prompt_details) and _tell_nothing(output_details):
        usage = {}
        if prompt:
            usage["input"] = prompt
        if completion:
            usage["output"] = completion
        return usage
    inside = _details(prompt_details)
    audio_in = _count(inside, "audio_tokens")
    image_in = _count(inside, "image_tokens")
    cached = _count(inside, "cached_tokens")
    written = _count(inside, "cache_write_tokens")
    if max(cached, written, audio_in + image_in) > prompt:
        raise BadUsage(f"the details of {first}_tokens exceed {first}_tokens")
    # Cached sound or images may be told twice; the cheaper class gives way.
    written = min(written, prompt - audio_in - image_in)
    cached = min(cached, prompt - audio_in - image_in - written)
    out = _details(output_details)
    reasoning = _count(out, "reasoning_tokens")
    audio_out = _count(out, "audio_tokens")
    if reasoning + audio_out > completion:
        raise BadUsage(f"the details of {second}_tokens exceed {second}_tokens")
    return _present(
        input=prompt - cached - written - audio_in - image_in,
        cache_read=cached,
        cache_write=written,
        audio_input=audio_in,
        image_input=image_in,
        output=completion - reasoning - audio_out,
        reasoning=reasoning,
        audio_output=audio_out,
    )


def _tell_nothing(details: Any) -> bool:
    """Whether there are no details, or all of them are 0, as most answers have them."""
    return details is None or (
        type(details) is dict and list(details.values()).count(0) == len(details)
    )


def _details(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise BadUsage("details of the usage are not an object")
    return value


def _count(report: Mapping[str, Any], name: str, *, required: bool = False) -> int:
    value = report.get(name)
    if type(value) is int and 0 <= value <= MAX_REPORTED:
        return value
    if value is None:
        if required:
            raise BadUsage(f"{name} is missing")
        return 0
    if type(value) is not int:
        raise BadUsage(f"{name} is not a whole number")
    raise BadUsage(f"{name} is negative" if value < 0 else f"{name} is beyond {MAX_REPORTED}")


def _present(**pools: int) -> Usage:
    return {unit: quantity for unit, quantity in pools.items() if quantity}
