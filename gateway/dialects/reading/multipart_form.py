"""Forms with files (RFC 7578), read completely and strictly, and rewritten: the client's bytes are never forwarded.

Parsing is the library `multipart`, in its strict mode; what a part may be is decided here. Limits are on
the number of parts and on their headers; the body as a whole is bounded before it is read.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

from gateway.dialects.base import BadRequest, TooLarge

MAX_PARTS: Final = 64
MAX_HEADER_BYTES: Final = 1024
MAX_HEADERS: Final = 8
MAX_TEXT_BYTES: Final = 64 * 1024
"""Of a part that is no file."""
MAX_FILENAME_CHARS: Final = 255
UNKNOWN_TYPE: Final = "application/octet-stream"
NOT_WHOLE: Final = "The body is not one whole multipart/form-data form."

_FORM: Final = re.compile(
    r"multipart/form-data(?: *; *[a-z0-9_-]+ *= *(?:\"[^\"]*\"|[^\s;\",]+))*[ ;]*", re.IGNORECASE
)
_BOUNDARY: Final = re.compile(
    r"; *boundary *= *(?:\"([0-9A-Za-z'()+_,./:=?-]{1,70})\"|([0-9A-Za-z'+_.=/?:-]{1,70}))(?= *(?:;|$))",
    re.IGNORECASE,
)
_CHARSET: Final = re.compile(r"; *charset *= *\"?([^\s;\"]*)", re.IGNORECASE)
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii"})
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]{1,64}/[a-z0-9.+-]{1,64}", re.IGNORECASE)
_TEXT_TYPE: Final = re.compile(r"text/plain(?: *;.*)?", re.IGNORECASE)
_PLAIN_ENCODINGS: Final = frozenset({"binary", "8bit", "7bit"})
"""What older clients say of a part's encoding: that it has none (RFC 7578, 4.7)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form. filename: of a file, else None."""

    name: str
    data: bytes = field(repr=False)
    filename: str | None = None
    media_type: str = UNKNOWN_TYPE

    @property
    def text(self) -> str:
        """A text's value. Raises BadRequest when it is none."""
        if self.filename is not None:
            raise BadRequest(f"`{self.name}` must be a string, not a file.", param=self.name)
        try:
            text = self.data.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"`{self.name}` is not UTF-8.", param=self.name) from None
        if "\0" in text:
            raise BadRequest(f"`{self.name}` contains a NUL character.", param=self.name)
        return text


def is_form(media_type: str) -> bool:
    """Whether a content type is a form's."""
    return media_type.partition(";")[0].strip().lower() == "multipart/form-data"


def read_form(body: bytes, media_types: list[str]) -> list[Part]:
    """The parts in their order. Raises BadRequest, TooLarge."""
    boundary = _boundary(media_types)
    # The library skips what is before the first part, and stops at the end: nothing may stand there.
    end = body.find(f"\r\n--{boundary}--".encode())
    if end < 0 or not body.startswith(f"--{boundary}\r\n".encode()):
        raise BadRequest(NOT_WHOLE)
    if body[end + len(boundary) + 6 :] not in (b"", b"\r\n"):
        raise BadRequest(NOT_WHOLE)
    parser = PushMultipartParser(
        boundary,
        content_length=len(body),
        max_header_size=MAX_HEADER_BYTES,
        max_header_count=MAX_HEADERS,
        max_segment_count=MAX_PARTS,
        strict=True,
    )
    parts: list[Part] = []
    segment: MultipartSegment | None = None
    pieces: list[bytes] = []
    try:
        for event in parser.parse(body):
            if isinstance(event, MultipartSegment):
                segment, pieces = event, []
            elif event is not None:
                pieces.append(bytes(event))
            elif segment is not None:
                parts.append(_part(segment, b"".join(pieces)))
        parser.close()
    except ParserLimitReached:
        raise TooLarge(
            f"A form may have {MAX_PARTS} parts, each with {MAX_HEADERS} headers of"
            f" {MAX_HEADER_BYTES} bytes."
        ) from None
    except MultipartError:
        raise BadRequest(NOT_WHOLE) from None
    return parts


def _boundary(media_types: list[str]) -> str:
    """The boundary that a form's type names among its parameters. Raises BadRequest."""
    media_type = media_types[0].strip() if len(media_types) == 1 else ""
    found = _BOUNDARY.findall(media_type) if _FORM.fullmatch(media_type) else []
    if len(found) != 1 or media_type.lower().count("boundary") != 1:
        raise BadRequest("`Content-Type` must be multipart/form-data with one plain boundary.")
    _check_charset(media_type, "Content-Type")
    [(quoted, plain)] = found
    return str(quoted or plain)


def _check_charset(media_type: str, where: str) -> None:
    """A form's texts are UTF-8, whether or not it says so. Raises BadRequest."""
    for charset in _CHARSET.findall(media_type):
        if charset.lower() not in _UTF8:
            raise BadRequest(
                f"The charset {charset[:32]!r} is not supported; send UTF-8.", param=where
            )


def new_boundary(parts: Iterable[Part]) -> str:
    """A boundary that occurs in none of the parts."""
    while True:
        boundary = f"creditgate-{secrets.token_hex(16)}"
        if not any(boundary.encode() in part.data for part in parts):
            return boundary


def write_form(parts: Iterable[Part], boundary: str) -> bytes:
    """The form, written out."""
    pieces = []
    for part in parts:
        head = f'content-disposition: form-data; name="{part.name}"'
        if part.filename is not None:
            head += f'; filename="{_quoted(part.filename)}"\r\ncontent-type: {part.media_type}'
        pieces.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + part.data + b"\r\n")
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()])


def _part(segment: MultipartSegment, data: bytes) -> Part:
    name = segment.name
    if not name or not name.isascii() or not name.isprintable() or '"' in name:
        raise BadRequest("A part of the form has no plain name.")
    # Parts are rewritten, so all other headers are dropped; these three decide what a part means.
    headers = {header.lower(): value for header, value in segment.headerlist}
    if len(headers) != len(segment.headerlist):
        raise BadRequest("A part of the form has the same header twice.", param=name)
    encoding = headers.get("content-transfer-encoding", "binary").strip().lower()
    if encoding not in _PLAIN_ENCODINGS:
        raise BadRequest(
            f"The transfer encoding {encoding[:32]!r} is not supported; send the bytes as they are.",
            param=name,
        )
    media_type = headers.get("content-type")
    if segment.filename is None:
        if media_type is not None:
            if not _TEXT_TYPE.fullmatch(media_type):
                raise BadRequest(f"`{name}` must be plain text.", param=name)
            _check_charset(media_type, name)
        if len(data) > MAX_TEXT_BYTES:
            raise TooLarge(f"`{name}` is longer than {MAX_TEXT_BYTES} bytes.")
        return Part(name, data)
    if len(segment.filename) > MAX_FILENAME_CHARS:
        raise BadRequest("The name of a file is too long.", param=name)
    if media_type is None or not _MEDIA_TYPE.fullmatch(media_type):
        media_type = UNKNOWN_TYPE
    return Part(name, data, segment.filename, media_type)


def _quoted(filename: str) -> str:
    """As HTML writes it (multipart/form-data, "escape a name")."""
    kept = "".join(c for c in filename if c.isprintable() or c in "\r\n")
    return kept.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
