"""Gemini's answers: one document, events, or a JSON array whose elements arrive in turn.

Every chunk of a stream reports the usage so far. A report is final once each candidate has a finish
reason, or the prompt was blocked; before that it is a running figure.

Hosted calls as Google bills them: each distinct search query, each run of code, each page that was
read, and grounding in maps or files once per answer.
"""

from typing import Any

from gateway.dialects.reading.reader import ERROR_NAMES, AnswerReader
from gateway.dialects.reading.tables import GEMINI
from gateway.dialects.reading.text import rendered_bytes, text_bytes

_READ = "URL_RETRIEVAL_STATUS_SUCCESS"


class GeminiReader(AnswerReader):
    """A GenerateContentResponse, complete or in chunks. choices: how many candidates were asked for"""

    table = GEMINI
    contents = frozenset({"candidates", "promptFeedback", "usageMetadata"})
    complete = frozenset(
        {
            "usageMetadata",
            "usage_metadata",
            "error",
            "detail",
            "functionCall",
            "executableCode",
            "codeExecutionResult",
            "webSearchQueries",
            "imageSearchQueries",
            "urlMetadata",
        }
    )
    kept = ERROR_NAMES | {
        "responseId",
        "modelVersion",
        "candidates",
        "content",
        "parts",
        "text",
        "inlineData",
        "finishReason",
        "index",
        "promptFeedback",
        "blockReason",
        "groundingMetadata",
        "groundingChunks",
        "maps",
        "retrievedContext",
        "urlContextMetadata",
    }

    def __init__(self, *, choices: int = 1) -> None:
        super().__init__()
        self._choices = choices
        self._finished_choices: set[int] = set()

    def read_document(self, document: dict[str, Any]) -> None:
        """A complete answer."""
        self._read(document, complete=True)

    def read_event(self, document: dict[str, Any], frame: bytes) -> bool:  # noqa: ARG002 - usage in each
        """A chunk."""
        self._read(document, complete=False)
        return False

    def _read(self, document: dict[str, Any], *, complete: bool) -> None:
        self.note(document.get("responseId"), document.get("modelVersion"))
        candidates = document.get("candidates")
        size = 0
        for candidate in candidates if type(candidates) is list else ():
            if type(candidate) is dict:
                size += self._read_candidate(candidate)
        if size > 0:
            self.count_text(size)
        feedback = document.get("promptFeedback")
        blocked = feedback.get("blockReason") if type(feedback) is dict else None
        self.finished(blocked)
        final = complete or bool(blocked) or len(self._finished_choices) >= self._choices
        for place in ("usageMetadata", "usage_metadata"):
            self.report(document.get(place), final=final)

    def _read_candidate(self, candidate: dict[str, Any]) -> int:
        """Bytes of its output."""
        size = 0
        content = candidate.get("content")
        parts = content.get("parts") if type(content) is dict else None
        for part in parts if type(parts) is list else ():
            if type(part) is dict:
                size += _part_bytes(part)
                if "executableCode" in part:
                    self.see_call(None)
        self._see_grounding(candidate)
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason:
            self.finished(reason)
            index = candidate.get("index")
            self._finished_choices.add(index if type(index) is int else 0)
        return size

    def _see_grounding(self, candidate: dict[str, Any]) -> None:
        grounding = candidate.get("groundingMetadata")
        if type(grounding) is dict:
            for kind in ("webSearchQueries", "imageSearchQueries"):
                queries = grounding.get(kind)
                for query in queries if type(queries) is list else ():
                    if isinstance(query, str) and query.strip():
                        self.see_call(f"{kind} {query.strip()}")
            chunks = grounding.get("groundingChunks")
            for chunk in chunks if type(chunks) is list else ():
                for kind in ("maps", "retrievedContext"):
                    if type(chunk) is dict and kind in chunk:
                        self.see_call(kind)
        context = candidate.get("urlContextMetadata")
        pages = context.get("urlMetadata") if type(context) is dict else None
        for page in pages if type(pages) is list else ():
            if type(page) is dict and page.get("urlRetrievalStatus") == _READ:
                self.see_call(f"url {page.get('retrievedUrl')}")


def _part_bytes(part: dict[str, Any]) -> int:
    """Bytes of output in a part: its text, and the texts of a call or of code."""
    size = 0
    for name, value in part.items():
        if name == "text" and isinstance(value, str):
            size += text_bytes(value)
        elif name in ("functionCall", "executableCode", "codeExecutionResult"):
            size += rendered_bytes(value)
        elif name == "inlineData":
            size += 1  # audio or an image counts as output
    return size
