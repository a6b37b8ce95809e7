"""Meters of chat completions, completions and embeddings: OpenAI's answers and chunks."""

from typing import Any, Final

from gateway.dialects.bounds import text_tokens
from gateway.dialects.metering import JsonMeter, SseMeter
from gateway.dialects.reported import BadUsage, read_openai_usage

NO_TEXT: Final = -1


def count_message(message: Any) -> tuple[int, str, str]:
    """What a message or delta carries: its bytes of output (−1 when none), and when it is one
    single text, the member's name and that text.

    Text stands in `content`, `refusal`, in the reasoning that some servers send under one or
    both of two names, and in calls. Sound counts as output without bytes.
    """
    if type(message) is not dict:
        return NO_TEXT, "", ""
    size = 0
    pieces = 0
    single = ("", "")
    for name in ("content", "refusal"):
        value = message.get(name)
        if not value:
            continue
        if type(value) is str:
            size += text_tokens(value)
            single = (name, value)
        else:
            size += _strings(value)
            pieces += 1
        pieces += 1
    thought = message.get("reasoning_content")
    also = message.get("reasoning")
    if type(also) is str and also and (type(thought) is not str or len(also) > len(thought)):
        name, value = "reasoning", also
    else:
        name, value = "reasoning_content", thought
    if type(value) is str and value:
        size += text_tokens(value)
        single = (name, value)
        pieces += 2 if thought and also else 1  # told twice: two strings differ, not one
    calls = message.get("tool_calls")
    if calls or message.get("function_call"):
        pieces += 2
        size += _strings(calls) + _strings(message.get("function_call"))
    audio = message.get("audio")
    if type(audio) is dict and (audio.get("data") or audio.get("transcript")):
        pieces += 2
        size += _strings(audio.get("transcript"))
    if not pieces:
        return NO_TEXT, "", ""
    return (size, *single) if pieces == 1 else (size, "", "")


def _strings(value: Any) -> int:
    """Bytes of all output text in a value: not of ids and types."""
    total = 0
    todo = [value]
    while todo:
        item = todo.pop()
        if type(item) is str:
            total += text_tokens(item)
        elif type(item) is dict:
            todo.extend(v for k, v in item.items() if k not in ("id", "type", "index", "signature"))
        elif type(item) is list:
            todo.extend(item)
    return total


class ChatJsonMeter(JsonMeter):
    """A whole chat completion or completion."""

    def _read(self, document: dict[str, Any]) -> None:
        self._note(document.get("id"), document.get("model"))
        self._note_tier(document.get("service_tier"))
        choices = document.get("choices")
        if type(choices) is list:
            for choice in choices:
                if type(choice) is dict:
                    self._read_choice(choice)
        report = document.get("usage")
        if report is not None:
            try:
                self._take_usage(read_openai_usage(report), final=True)
            except BadUsage as problem:
                self._refuse_usage(problem)

    def _read_choice(self, choice: dict[str, Any]) -> None:
        text = choice.get("text")
        size = text_tokens(text) if type(text) is str and text else NO_TEXT
        if size == NO_TEXT:
            size = count_message(choice.get("message"))[0]
        if size >= 0:
            self._count_text(size)
        self._finished(choice.get("finish_reason"))


class EmbeddingsMeter(JsonMeter):
    """Embeddings: usage of the input alone."""

    def _read(self, document: dict[str, Any]) -> None:
        self._note(document.get("id"), document.get("model"))
        self._note_tier(document.get("service_tier"))
        report = document.get("usage")
        if report is not None:
            try:
                self._take_usage(read_openai_usage(report, output_expected=False), final=True)
            except BadUsage as problem:
                self._refuse_usage(problem)

    def _update_count(self) -> None:
        """Embeddings have no output tokens."""


class ChatSseMeter(SseMeter):
    """Chunks of a chat completion or completion.

    A report in a chunk without choices is the final one, as is one beside the last finish reason
    (Mistral, OpenRouter); beside others it is a running figure (vLLM's continuous_usage_stats).
    """

    __slots__ = ("_choices", "_finished_choices")

    def __init__(self, *, hides: bool, choices: int) -> None:
        super().__init__(hides=hides)
        self._choices = choices
        self._finished_choices: set[int] = set()

    def _read(self, document: dict[str, Any], frame: bytes) -> bool:
        facts = self.facts
        if facts.response_id is None or facts.response_model is None:
            self._note(document.get("id"), document.get("model"))
        if (tier := document.get("service_tier")) is not None:
            self._note_tier(tier)
        if document.get("error"):
            facts.error = True
        choices = document.get("choices")
        report = document.get("usage")
        if type(choices) is list and choices:
            self._read_choices(choices, frame, repeatable=report is None)
        if report is None:
            return False
        try:
            usage = read_openai_usage(report)
        except BadUsage as problem:
            self._refuse_usage(problem)
        else:
            final = not choices or len(self._finished_choices) >= self._choices
            self._take_usage(usage, final=final)
        return choices == [] and type(report) is dict

    def _read_choices(self, choices: list[Any], frame: bytes, *, repeatable: bool) -> None:
        total = NO_TEXT
        name = text = ""
        for choice in choices:
            if type(choice) is not dict:
                continue
            legacy = choice.get("text")
            if type(legacy) is str and legacy:
                size, name, text = text_tokens(legacy), "text", legacy
            else:
                size, name, text = count_message(choice.get("delta"))
            if size >= 0:
                total = max(total, 0) + size
            reason = choice.get("finish_reason")
            if type(reason) is str and reason:
                self._finished(reason)
                index = choice.get("index")
                self._finished_choices.add(index if type(index) is int else 0)
                repeatable = False
        if total < 0:
            return
        self._count_text(total)
        if name and repeatable and len(choices) == 1 and not self.facts.error:
            self._repeated.learn(frame, name.encode(), text)
