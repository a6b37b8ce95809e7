"""Upper bounds of the input tokens of a prompt.

Law: the bound is never below what the upstream can count. A token of a byte-level or
byte-fallback tokenizer covers at least one byte of the decoded text's UTF-8, so:

- text counts its UTF-8 bytes;
- structure that a template renders (tools, schemas, tool calls) counts twice its compact JSON:
  templates print it with spaces or indentation, and a separator or a line break with its indent
  is at most one more token for each byte of compact JSON;
- chat templates and tool preambles count what `ReadOptions` and the constants below say;
- an image's or document's tokens follow from pixels and pages, not from its bytes: each counts
  `reference_tokens`, inline or by URL (an inline document counts its characters
  if they are more, sound a fraction of them).

Tokenizers that normalise text (NFKC) may exceed this for a few ligatures; the settle takes it.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.dialects.base import BadRequest, ReadOptions
from gateway.dialects.strict_json import require_lower_case

TOOLS_PREAMBLE_TOKENS: Final = 1024
"""Put in front of a model when it is given any tool. Anthropic states 159–804 by model and choice
(docs: tool use, pricing); open templates add up to about 300."""

PROVIDER_TOOL_TOKENS: Final = 2048
"""For a tool whose description the provider writes (bash, text editor, computer: 245–1,500 each)."""

PART_TOKENS: Final = 8
"""Separators around one part of a message's content."""

STATEFUL: Final = frozenset(
    {"file_id", "file_ids", "vector_store_ids", "container", "container_id", "audio_id"}
)
"""Members that name something stored at the provider."""

MAX_TOKEN_ID: Final = 2**31


def text_tokens(text: str) -> int:
    """The most tokens that a text can have: its UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode())


def rendered_tokens(value: Any) -> int:
    """The most tokens that a structure can have when a template renders it."""
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
    """Adds up the bound while a request is read."""

    __slots__ = ("_room", "audio", "images", "options", "tokens")

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self.tokens = options.template_overhead_tokens
        self._room = 0
        self.images = False
        self.audio = False

    def add_room(self, tokens: int) -> None:
        """Room for what the provider adds: the bound has it, the count of the request does not."""
        self.tokens += tokens
        self._room += tokens

    @property
    def own(self) -> int:
        """The bound of the request's own body."""
        return self.tokens - self._room

    def add_structure(self, value: Any) -> None:
        """Something that a template may render."""
        self.tokens += rendered_tokens(value)

    def add_content(self, content: Any, where: str) -> None:
        """The content of a message: a text, or a list of parts, or nothing. Raises BadRequest."""
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
            raise BadRequest("The content must be a text or a list of parts.", param=where)

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
        if kind in ("tool_use", "tool_call", "server_tool_use"):
            # `input` is the caller's own object, in which any name may stand.
            self.tokens += rendered_tokens(part)
            return
        if kind == "tool_result":
            self.tokens += rendered_tokens([v for k, v in part.items() if k != "content"])
            self.add_content(part.get("content"), f"{where}.content")
            return
        refuse_stored(part, where, self.options)
        media = _MEDIA_KINDS.get(kind) if type(kind) is str else None
        if media is None:
            # Unknown: whatever it says, and what it may refer to.
            self.tokens += rendered_tokens(part) + self.options.reference_tokens
            self.images = self.audio = True
            return
        self._add_media(media, part, where)

    def _add_media(self, media: str, part: dict[str, Any], where: str) -> None:
        inline = _inline_chars(part)
        reference = self.options.reference_tokens
        if media == "image":
            self.images = True
            self.tokens += reference
        elif media == "audio":
            # OpenAI counts a token for 100 ms, and no usual coding has less than 32 bytes in it,
            # which are 43 characters of base64.
            self.audio = True
            self.tokens += max(reference, inline // 43)
        else:
            # Pages may hold images as well as text. A text document is its own bytes; of a coded
            # one each character counts.
            self.images = True
            source = part.get("source")
            if type(source) is dict and type(source.get("content")) in (str, list):
                self.add_content(source["content"], f"{where}.source.content")
            self.tokens += max(reference, inline)
        labels = {k: v for k, v in part.items() if k in ("title", "context", "filename")}
        if labels:
            self.tokens += rendered_tokens(labels)


_TEXT_KINDS: Final = frozenset({"text", "input_text", "output_text", "refusal"})

_MEDIA_KINDS: Final[Mapping[str, str]] = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
    "document": "document",
    "file": "document",
    "input_file": "document",
}


def _inline_chars(part: dict[str, Any]) -> int:
    """Characters of the data carried inline, base64 or text, over all members; URLs do not matter."""
    chars = 0
    todo: list[Any] = [part]
    while todo:
        item = todo.pop()
        if type(item) is str:
            chars += len(item) if item.isascii() else len(item.encode())
        elif type(item) is dict:
            todo.extend(item.values())
        elif type(item) is list:
            todo.extend(item)
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
            f"`{where}` must be a text, a list of token ids, or a list of those.", param=where
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
            raise BadRequest("A text or a list of token ids belongs here.", param=f"{where}[{at}]")
    return len(value)


def _token_ids(ids: list[Any], where: str) -> int:
    for at, token in enumerate(ids):
        if type(token) is not int or not 0 <= token < MAX_TOKEN_ID:
            raise BadRequest("A token id must be a whole number.", param=f"{where}[{at}]")
    return len(ids)
