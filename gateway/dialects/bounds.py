"""Upper bounds of the input tokens of a prompt.

Invariants: the bound is never below what the upstream can count. A token of a byte-level or
byte-fallback tokenizer covers at least one byte of the decoded text's UTF-8, so:

- text counts its UTF-8 bytes;
- structure that a template renders (tools, schemas, tool calls) counts twice its compact JSON:
  templates print it with spaces or indentation, and a separator or a line break with its indent
  is at most one more token for each byte of compact JSON;
- chat templates and tool preambles count what `ReadOptions` and the constants below say;
- an image's tokens follow from its pixels, a document's from its pages and a video's from its
  length, not from bytes of the body. Each counts what the operator states for its kind
  (`media_tokens`); an inline image has a number by default, inline sound a fraction of its bytes.
  The body does not bound anything else: it is noted in `Prompt.unmeasured`, and the bound is then
  the model's context.

Tokenizers that normalise text (NFKC) may exceed this for a few ligatures; the settle takes it.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.dialects.base import (
    INLINE_IMAGE_TOKENS,
    BadRequest,
    MediaKind,
    ReadOptions,
    Unmeasured,
)
from gateway.dialects.reading.strict_json import require_lower_case

TOOLS_PREAMBLE_TOKENS: Final = 1024
"""The preamble that a model gets with any tool. Anthropic states 159–804 by model and choice
(docs: tool use, pricing); open templates add up to about 300."""

PROVIDER_TOOL_TOKENS: Final = 2048
"""For a tool whose description the provider writes (bash, text editor, computer: 245–1,500 each)."""

PART_TOKENS: Final = 8
"""Separators around one part of a message's content."""

STATEFUL: Final = frozenset(
    {
        "file_id",
        "file_ids",
        "vector_store_ids",
        "container",
        "container_id",
        "audio_id",
        "comparison_response_id",
    }
)
"""Members that refer to something stored at the provider."""

MAX_TOKEN_ID: Final = 2**31


def text_tokens(text: str) -> int:
    """Upper bound of a text's tokens: its UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode())


def rendered_tokens(value: Any) -> int:
    """Upper bound of the tokens of a structure that a template renders."""
    return 2 * len(orjson.dumps(value))


def refuse_stored(value: Any, where: str, options: ReadOptions) -> None:
    """Refuse references to files and other things stored at the provider. Raises BadRequest.

    Walks without recursion: the strict parse allows 254 levels.
    """
    if options.allow_stateful_ids:
        return
    todo = [(value, where)]
    while todo:
        item, path = todo.pop()
        if type(item) is dict:
            for name, member in item.items():
                if name.casefold() in STATEFUL and member:
                    raise BadRequest(
                        f"`{name}` refers to something stored at the provider, whose size is unknown"
                        " and which other customers could name; send the content itself.",
                        param=f"{path}.{name}",
                    )
                if type(member) in (dict, list):
                    todo.append((member, f"{path}.{name}"))
        elif type(item) is list:
            todo.extend((member, f"{path}[{at}]") for at, member in enumerate(item))


class Prompt:
    """Add up the bound while a request is read.

    unmeasured:   the first piece of media that nothing bounds
    tools:        tools that the messages bring along, with their paths
    """

    __slots__ = ("_room", "audio", "images", "options", "tokens", "tools", "unmeasured")

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self.tokens = options.template_overhead_tokens
        self._room = 0
        self.images = False
        self.audio = False
        self.unmeasured: Unmeasured | None = None
        self.tools: list[tuple[Any, str]] = []

    def add_room(self, tokens: int) -> None:
        """Add room for what the provider adds: part of the bound, not of the request's count."""
        self.tokens += tokens
        self._room += tokens

    @property
    def own(self) -> int:
        """The bound of the request's own body."""
        return self.tokens - self._room

    def add_structure(self, value: Any) -> None:
        """Add a structure that a template may render."""
        self.tokens += rendered_tokens(value)

    def add_extra(self, document: Mapping[str, Any]) -> None:
        """Add the operator's extra fields: a template may render them."""
        for name in self.options.extra_fields.intersection(document):
            self.add_structure(document[name])

    def add_media(
        self, kind: MediaKind, where: str, default: int | None = None, *, least: int = 0
    ) -> None:
        """One piece of media.

        default: its tokens where the operator states none; None when the body does not bound them
        least:   its tokens by the body, whatever the operator states
        """
        if kind == "audio":
            self.audio = True
        else:
            self.images = True
            self.audio = self.audio or kind == "video"
        stated = self.options.tokens_of(kind)
        if stated is not None:
            self.tokens += max(stated, least)
        elif default is not None:
            self.tokens += default
        elif self.unmeasured is None:
            self.unmeasured = Unmeasured(kind, where)

    def add_stored(self, where: str) -> None:
        """Add something stored at the provider, such as a conversation, which may contain anything."""
        self.audio = self.images = True
        if self.options.reference_tokens is not None:
            self.tokens += self.options.reference_tokens
        elif self.unmeasured is None:
            self.unmeasured = Unmeasured("stored", where)

    def add_content(self, content: Any, where: str) -> None:
        """Add the content of a message: a text, a list of parts, or nothing. Raises BadRequest."""
        if type(content) is str:
            self.tokens += text_tokens(content)
        elif type(content) is list:
            for at, part in enumerate(content):
                if type(part) is dict:
                    self.add_part(part, f"{where}[{at}]")
                elif type(part) is str:
                    self.tokens += text_tokens(part) + PART_TOKENS
                else:
                    raise BadRequest(
                        "A part of the content must be an object with a `type`.",
                        param=f"{where}[{at}]",
                    )
        elif type(content) is dict:
            self.add_part(content, where)
        elif content is not None:
            raise BadRequest("The content must be a string or a list of parts.", param=where)

    def add_part(self, part: dict[str, Any], where: str) -> None:
        """One part of a content, in the shapes of OpenAI and Anthropic. Raises BadRequest."""
        require_lower_case(part, where)
        kind = part.get("type")
        self.tokens += PART_TOKENS
        if kind in _TEXT_KINDS:
            for name, member in part.items():
                if name == "text" and type(member) is str:
                    self.tokens += text_tokens(member)
                elif name != "type":
                    self.tokens += rendered_tokens(member)
            return
        if kind in ("tool_use", "tool_call", "server_tool_use", "mcp_tool_use"):
            # `input` is the caller's object and may have members of any name.
            self.tokens += rendered_tokens(part)
            return
        if kind in ("tool_result", "mcp_tool_result"):
            self.tokens += rendered_tokens([v for k, v in part.items() if k != "content"])
            self.add_content(part.get("content"), f"{where}.content")
            return
        refuse_stored(part, where, self.options)
        media = MEDIA_KINDS.get(kind) if type(kind) is str else None
        if media is not None:
            self._add_media(media, part, where)
            return
        self.tokens += rendered_tokens(part)
        if kind in _WRITTEN_KINDS or (type(kind) is str and kind.endswith("_tool_result")):
            self.look_inside(part, where)
        else:
            # Unknown: count what it contains and what it may refer to.
            self.add_stored(where)

    def look_inside(self, part: Any, where: str) -> None:
        """Find the media and the tools in a structure that was added as text, and count the media as
        media instead."""
        todo: list[tuple[Any, str]] = [(part, where)]
        while todo:
            item, path = todo.pop()
            if type(item) is list:
                todo.extend((member, f"{path}[{at}]") for at, member in enumerate(item))
            elif type(item) is dict:
                kind = item.get("type")
                media = MEDIA_KINDS.get(kind) if type(kind) is str else None
                if media is not None:
                    self.tokens -= 2 * _inline_chars(item)
                    self._add_media(media, item, path)
                elif kind == "tool_definition":
                    self.tools.append((item.get("definition"), f"{path}.definition"))
                else:
                    todo.extend((member, f"{path}.{name}") for name, member in item.items())

    def _add_media(self, media: MediaKind, part: dict[str, Any], where: str) -> None:
        inline = _inline_chars(part)
        if media == "image":
            self.add_media("image", where, INLINE_IMAGE_TOKENS if inline else None)
        elif media == "audio":
            # OpenAI counts a token for 100 ms, and no usual coding has less than 32 bytes in it,
            # which are 43 characters of base64.
            measured = -(-inline // 43)
            self.add_media("audio", where, measured or None, least=measured)
        elif media == "document":
            self._add_document(part, where)
        else:
            self.add_media(media, where)
        labels = {k: v for k, v in part.items() if k in ("title", "context", "filename")}
        if labels:
            self.tokens += rendered_tokens(labels)

    def _add_document(self, part: dict[str, Any], where: str) -> None:
        """A text counts its bytes; pages hold images and compressed text, which their bytes do not bound."""
        source = part.get("source")
        if type(source) is dict:
            kind, content = source.get("type"), source.get("content")
            if kind == "content" and type(content) in (str, list):
                self.images = True
                self.add_content(content, f"{where}.source.content")
                return
            if kind == "text" and type(source.get("data")) is str:
                self.tokens += text_tokens(source["data"])
                return
        self.add_media("document", where)


_TEXT_KINDS: Final = frozenset({"text", "input_text", "output_text", "refusal"})

MEDIA_KINDS: Final[Mapping[str, MediaKind]] = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "computer_screenshot": "image",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
    "document": "document",
    "file": "document",
    "file_url": "document",
    "input_file": "document",
    "video": "video",
    "video_url": "video",
    "input_video": "video",
}

_WRITTEN_KINDS: Final = frozenset(
    {
        "compaction",
        "fallback",
        "mcp_tool_listing",
        "reasoning",
        "reasoning_text",
        "redacted_thinking",
        "search_result",
        "summary_text",
        "thinking",
        "tool_addition",
        "tool_reference",
        "tool_removal",
    }
)
"""Parts that are text, or that hold parts of other kinds. So do results of hosted tools."""

_DATA: Final = frozenset({"data", "b64_json", "file_data"})
"""Members that carry the bytes themselves."""

_SCHEMES: Final = ("https:", "http:", "gs:", "s3:", "file:")


def _inline_chars(part: dict[str, Any]) -> int:
    """Characters of the data carried inline; 0 when the part refers to anything elsewhere."""
    chars = 0
    todo: list[Any] = [(part, "")]
    while todo:
        item, name = todo.pop()
        if type(item) is str:
            start = item[:64].lstrip().lower()
            if start.startswith("data:") or (name in _DATA and not start.startswith(_SCHEMES)):
                chars += text_tokens(item)
            elif name.endswith(("url", "uri")) or name in STATEFUL or start.startswith(_SCHEMES):
                return 0
        elif type(item) is dict:
            todo.extend((member, key.casefold()) for key, member in item.items())
        elif type(item) is list:
            todo.extend((member, name) for member in item)
    return chars


def prompt_texts(value: Any, where: str, prompt: Prompt, *, per_text: int) -> int:
    """Add a prompt or input that is a text, token ids, or a list of either; return how many texts.

    per_text: tokens added to each (begin and end of text). Raises BadRequest.
    """
    if type(value) is str:
        prompt.tokens += text_tokens(value) + per_text
        return 1
    if type(value) is not list or not value:
        raise BadRequest(
            f"`{where}` must be a string, a list of token ids, or a list of those.", param=where
        )
    if type(value[0]) is int:
        prompt.tokens += _token_ids(value, where) + per_text
        return 1
    for at, item in enumerate(value):
        if type(item) is str:
            prompt.tokens += text_tokens(item) + per_text
        elif type(item) is list:
            prompt.tokens += _token_ids(item, f"{where}[{at}]") + per_text
        elif type(item) is dict:
            prompt.add_part(item, f"{where}[{at}]")
            prompt.tokens += per_text
        else:
            raise BadRequest("Must be a string or a list of token ids.", param=f"{where}[{at}]")
    return len(value)


def _token_ids(ids: list[Any], where: str) -> int:
    for at, token in enumerate(ids):
        if type(token) is not int or not 0 <= token < MAX_TOKEN_ID:
            raise BadRequest(
                "A token id must be an integer from 0 to 2147483647.", param=f"{where}[{at}]"
            )
    return len(ids)
