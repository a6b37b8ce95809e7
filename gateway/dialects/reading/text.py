"""How much of an answer is output text, in bytes.

Text is counted as text. Media (base64, data URLs, links), ids, signatures and encrypted content are
not output tokens, whatever their length.
"""

from typing import Any, Final

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
        "image",
        "images",
        "audio",
        "video",
        "file",
        "file_data",
        "source",
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


class LongText(str):
    """The beginning of a string that was not kept completely, and the size that it had.

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
            total += text_bytes(item)
        elif type(item) is dict:
            todo.extend(member for name, member in item.items() if name not in NOT_TEXT)
        elif type(item) is list:
            todo.extend(item)
    return total


def rendered_bytes(value: Any) -> int:
    """Bytes of a structure that the model wrote, such as a call's arguments, as compact JSON."""
    total = 0
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            total += text_bytes(item) + 2
        elif type(item) is dict:
            total += 1 + 2 * len(item) if item else 2  # brackets, colons, commas
            todo.extend(item)
            todo.extend(item.values())
        elif type(item) is list:
            total += 1 + len(item) if item else 2
            todo.extend(item)
        else:
            total += len(str(item))  # null, true and false have as many as in Python, but one
    return total
