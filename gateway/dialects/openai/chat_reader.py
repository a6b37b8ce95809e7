"""Answers of chat completions, completions and embeddings, as OpenAI and its imitators send them."""

from typing import Any, Final

from gateway.dialects.reading.reader import ERROR_NAMES, AnswerReader
from gateway.dialects.reading.tables import OPENAI
from gateway.dialects.reading.text import output_bytes, rendered_bytes, text_bytes

NO_TEXT: Final = -1

_SEARCH: Final = "web_search"

_PLAIN_CHOICE: Final = frozenset({"index", "delta", "logprobs", "finish_reason"})

BESIDE_CONTENT: Final = frozenset(
    {"reasoning_content", "reasoning", "tool_calls", "function_call", "audio", "images"}
)
"""Other members of a message that may carry output."""


def count_message(message: Any) -> tuple[int, str, str]:
    """What a message or delta carries: its bytes of output (−1 when none), and when it is one
    single text, the member's name and that text.

    Text is in `content`, `refusal`, in the reasoning that some servers send under one or
    both of two names, and in calls. Audio and images count as output without bytes.
    """
    if type(message) is not dict or not message:
        return NO_TEXT, "", ""
    content = message.get("content")
    if (
        type(content) is str
        and content
        and BESIDE_CONTENT.isdisjoint(message)
        and not message.get("refusal")  # usually there and null
    ):
        return len(content) if content.isascii() else text_bytes(content), "content", content
    size = 0
    pieces = 0
    single = ("", "")
    for name in ("content", "refusal"):
        value = message.get(name)
        if not value:
            continue
        if isinstance(value, str):
            size += text_bytes(value)
            single = (name, value)
        else:
            size += output_bytes(value)
            pieces += 1
        pieces += 1
    thought = message.get("reasoning_content")
    also = message.get("reasoning")
    twice = bool(thought and also)
    if (
        isinstance(also, str)
        and also
        and (not isinstance(thought, str) or len(also) > len(thought))
    ):
        name, value = "reasoning", also
    else:
        name, value = "reasoning_content", thought
    if isinstance(value, str) and value:
        size += text_bytes(value)
        single = (name, value)
        pieces += 2 if twice else 1  # two strings differ, not one
    calls = message.get("tool_calls")
    if calls or message.get("function_call"):
        pieces += 2
        size += _calls_bytes(calls) + _calls_bytes(message.get("function_call"))
    audio = message.get("audio")
    if type(audio) is dict and ("data" in audio or audio.get("transcript")):
        pieces += 2
        size += output_bytes(audio.get("transcript"))
    if message.get("images"):
        pieces += 2
    if not pieces:
        return NO_TEXT, "", ""
    return (size, *single) if pieces == 1 else (size, "", "")


def _calls_bytes(calls: Any) -> int:
    """Bytes that the model wrote of calls: names, and arguments as text or as an object."""
    total = 0
    for call in calls if type(calls) is list else (calls,):
        if type(call) is not dict:
            continue
        for part in (call, call.get("function"), call.get("custom")):
            for name in ("name", "arguments", "input"):
                value = part.get(name) if type(part) is dict else None
                if isinstance(value, str):
                    total += text_bytes(value)
                elif value is not None:
                    total += rendered_bytes(value)
    return total


class ChatReader(AnswerReader):
    """A chat completion or completion, one document or chunks.

    Usage is at the top, in a choice (Kimi), or below `x_groq`. In a chunk without choices it is
    final, as it is with the last finish reason (Mistral, OpenRouter); elsewhere it is a running
    figure (vLLM's continuous_usage_stats).

    choices:   how many outputs were asked for
    searches:  a web search was asked for: providers run it before the first output
    """

    table = OPENAI
    contents = frozenset({"choices"})
    complete = frozenset(
        {"usage", "error", "tool_calls", "function_call", "content", "refusal", "detail"}
    )
    kept = ERROR_NAMES | {
        "id",
        "model",
        "service_tier",
        "choices",
        "delta",
        "message",
        "text",
        "reasoning_content",
        "reasoning",
        "audio",
        "data",
        "transcript",
        "images",
        "finish_reason",
        "index",
        "x_groq",
    }

    def __init__(self, *, choices: int = 1, searches: bool = False) -> None:
        super().__init__()
        self._choices = choices
        self._searches = searches
        self._finished_choices: set[int] = set()
        self._streamed = False  # text has come in deltas

    def read_document(self, document: dict[str, Any]) -> None:
        """A complete answer."""
        self.note(document.get("id"), document.get("model"))
        self.note_tier(document.get("service_tier"))
        choices = document.get("choices")
        for choice in choices if type(choices) is list else ():
            if type(choice) is dict:
                text = choice.get("text")
                if isinstance(text, str) and text:
                    self._count(text_bytes(text))
                else:
                    self._count(count_message(choice.get("message"))[0])
                self._end_choice(choice)
        self._report_all(document, choices, final=True)

    def read_event(self, document: dict[str, Any], frame: bytes) -> bool:
        """A chunk; True for one that carries usage alone."""
        facts = self.facts
        if facts.response_id is None or facts.response_model is None:
            self.note(document.get("id"), document.get("model"))
        if (tier := document.get("service_tier")) is not None:
            self.note_tier(tier)
        choices = document.get("choices")
        report = document.get("usage")
        if type(choices) is list and choices:
            if (
                report is None
                and len(choices) == 1
                and "x_groq" not in document
                and self._read_plain_choice(choices[0], frame)
            ):
                return False
            plain = report is None and not facts.error and "x_groq" not in document
            self._read_choices(choices, frame, repeatable=plain)
        final = not choices or len(self._finished_choices) >= self._choices
        self._report_all(document, choices, final=final)
        return choices == [] and type(report) is dict

    def _read_plain_choice(self, choice: Any, frame: bytes) -> bool:
        """Read the choice of a chunk without usage if it carries a text in `content`, or nothing, and
        does not end; False, with nothing done, for any other choice."""
        if (
            type(choice) is not dict
            or not _PLAIN_CHOICE.issuperset(choice)
            or choice.get("finish_reason") is not None
            or self._searches
        ):
            return False
        delta = choice.get("delta")
        if type(delta) is not dict or not BESIDE_CONTENT.isdisjoint(delta) or delta.get("refusal"):
            return False
        content = delta.get("content")
        if not content:
            return True
        if type(content) is not str:
            return False
        self._text_frames += 1
        self._text_bytes += len(content) if content.isascii() else text_bytes(content)
        self._streamed = True
        if frame and not self.facts.error:
            self.repeated.learn(frame, b"content", content)
        return True

    def _read_choices(self, choices: list[Any], frame: bytes, *, repeatable: bool) -> None:
        total = NO_TEXT
        name = text = ""
        for choice in choices:
            if type(choice) is not dict:
                continue
            legacy = choice.get("text")
            if isinstance(legacy, str) and legacy:
                size, name, text = text_bytes(legacy), "text", legacy
            else:
                size, name, text = count_message(choice.get("delta"))
                if size == NO_TEXT and not self._streamed:  # a stream of complete messages
                    size, name, text = count_message(choice.get("message"))
                    repeatable = False
            if size >= 0:
                total = max(total, 0) + size
            self._streamed = self._streamed or size > NO_TEXT
            if self._end_choice(choice):
                index = choice.get("index")
                self._finished_choices.add(index if type(index) is int else 0)
                repeatable = False
            if choice.get("usage") is not None:
                repeatable = False
        self._count(total)
        if name and repeatable and len(choices) == 1 and frame and type(text) is str:
            self.repeated.learn(frame, name.encode(), text)

    def _end_choice(self, choice: dict[str, Any]) -> bool:
        """Note why a choice ended, if it has; some routers put an error into it."""
        reason = choice.get("finish_reason")
        self.finished(reason)
        if choice.get("error") or reason == "error":
            self.facts.error = True
        return isinstance(reason, str) and reason != ""

    def _count(self, size: int) -> None:
        if size >= 0:
            self.count_text(size)
            if self._searches:
                self.see_call(_SEARCH)

    def _report_all(self, document: dict[str, Any], choices: Any, *, final: bool) -> None:
        """Every place where this dialect reports usage."""
        self.report(document.get("usage"), final=final)
        groq = document.get("x_groq")
        if type(groq) is dict:
            self.report(groq.get("usage"), final=final)
        for choice in choices if type(choices) is list else ():
            if type(choice) is dict and "usage" in choice:
                self.report(choice["usage"], final=final)


class EmbeddingsReader(AnswerReader):
    """Embeddings: usage of the input alone; nothing is output."""

    table = OPENAI
    contents = frozenset({"data"})
    complete = frozenset({"usage", "error", "detail"})
    kept = ERROR_NAMES | {"id", "model", "service_tier", "data"}

    def read_document(self, document: dict[str, Any]) -> None:
        """A complete answer."""
        self.note(document.get("id"), document.get("model"))
        self.note_tier(document.get("service_tier"))
        self.report(document.get("usage"), final=True)
