"""How much of an answer is output text, in bytes.

Text is counted as text. Media (base64, data URLs, links), ids, signatures and encrypted content are
not output tokens, whatever their length.
"""

import re
from typing import Any, Final

import orjson

NOT_TEXT: Final = frozenset(
    {
        "id",
        "call_id",
        "type",
        "index",
        "role",
        "status",
        "signature",
        "thoughtSignature",
        "encrypted_content",
        "data",
        "b64_json",
        "image_url",
        "url",
        "images",
        "format",
        "mime_type",
        "mimeType",
        "media_type",
        "extra_content",
        "annotations",
        "logprobs",
    }
)
"""Members of an answer that carry no output text."""

_DATA_URL: Final = re.compile(r"data:[\w.+-]+/[\w.+-]+[;,]")
"""RFC 2397, with the media type that all who send media write."""


class LongText(str):
    """The beginning of a string that was not kept whole, and the size that it had.

    size: bytes of UTF-8
    """

    __slots__ = ("size",)
    size: int

    @classmethod
    def of(cls, head: str, size: int) -> "LongText":
        """A string that begins with `head`."""
        text = cls(head)
        text.size = size
        return text


def text_bytes(text: str) -> int:
    """Bytes of a string's UTF-8. A lone surrogate, which some servers send, has three."""
    if type(text) is LongText:
        return text.size
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def output_bytes(value: Any) -> int:
    """Bytes of all output text in a value."""
    total = 0
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            if _DATA_URL.match(item) is None:
                total += text_bytes(item)
        elif type(item) is dict:
            todo.extend(member for name, member in item.items() if name not in NOT_TEXT)
        elif type(item) is list:
            todo.extend(item)
    return total


def rendered_bytes(value: Any) -> int:
    """Bytes of a structure that the model wrote, such as a call's arguments, as compact JSON."""
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError:  # a lone surrogate, or nested too deep
        return _estimated_bytes(value)
    return size + sum(text.size - text_bytes(str(text)) for text in _long_texts(value))


def _estimated_bytes(value: Any) -> int:
    total = 0
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            total += text_bytes(item) + 2
        elif type(item) is dict:
            total += 2 + 2 * len(item)
            todo.extend(item)
            todo.extend(item.values())
        elif type(item) is list:
            total += 2 + len(item)
            todo.extend(item)
        else:
            total += len(str(item))
    return total


def _long_texts(value: Any) -> list[LongText]:
    found = []
    todo = [value]
    while todo:
        item = todo.pop()
        if type(item) is LongText:
            found.append(item)
        elif type(item) is dict:
            todo.extend(item.values())
        elif type(item) is list:
            todo.extend(item)
    return found
