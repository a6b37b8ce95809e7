"""Decodes content codings (gzip, deflate, br, zstd): a copy of a coded answer, so that it is still
metered, and the body of a coded request.

The gate asks upstreams for `identity`; some send a coding nevertheless (RFC 9110, 8.4). What the
client gets stays as the upstream sent it. Output is bounded: a bomb ends the decoding, never the
gate; what was decoded until then has been metered. A request is decoded strictly, in bounded pieces.
Work is bounded too: gzip members and zstd frames may follow each other, and an empty one costs the
decoder's set-up without giving a byte.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import brotli
import zstandard

MAX_PIECE_BYTES: Final = 8 * 1024 * 1024
"""The most that one `feed` may give."""
MAX_TOTAL_BYTES: Final = 256 * 1024 * 1024
"""The most that one answer may decode to."""
_ZSTD_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""The memory that decoding takes; RFC 9659 allows so much in HTTP."""
MAX_MEMBERS: Final = 4096
"""The most gzip members or zstd frames of one body. Block-compressed gzip has one for each 64 KiB."""
MAX_BLOCKS: Final = 65_536
"""The most zstd blocks of one request body: an empty one has three bytes and costs a call."""
_MEMBER_BYTES: Final = 4096
"""Input after the first member is given in such steps: what follows a member's end is copied."""
_STEP_BYTES: Final = 256
"""zstd takes no output limit; a block of 128 KiB has at least 4 bytes, so a step gives ≤ 8 MiB."""


class Decoder:
    """One answer's decoder. problem: why decoding ended early (bad data, a bomb), or None."""

    __slots__ = ("_left", "_stages", "problem")

    def __init__(self, stages: list[Callable[[bytes, int], bytes]]) -> None:
        self._stages = stages
        self._left = MAX_TOTAL_BYTES
        self.problem: str | None = None

    def feed(self, data: bytes) -> bytes:
        """Decode the next bytes. Never raises: after a problem it gives nothing more."""
        if self.problem is not None:
            return b""
        try:
            for stage in self._stages:
                data = stage(data, min(MAX_PIECE_BYTES, self._left))
        except _TooMuch as much:
            self.problem = f"the answer {much} than are read"
            return b""
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            self.problem = f"the answer's coding is broken: {type(error).__name__}"
            return b""
        self._left -= len(data)
        return data


def decoder_for(content_encoding: bytes | None) -> Decoder | None:
    """A decoder for a Content-Encoding header; None when the answer is not coded.

    An unknown coding gives a decoder that has its problem from the start.
    """
    if not content_encoding:
        return None
    names = [name.strip().lower() for name in content_encoding.decode("latin-1").split(",")]
    names = [name for name in names if name and name != "identity"]
    if not names:
        return None
    unknown = [name for name in names if name not in _STAGES]
    # The last coding that was applied is listed last (RFC 9110, 8.4) and undone first.
    decoder = Decoder([] if unknown else [_STAGES[name]() for name in reversed(names)])
    if unknown or len(names) > 2:
        decoder.problem = f"the answer's coding is not known: {', '.join(names)[:64]}"
    return decoder


class _TooMuch(Exception):
    """More output or members than the limit; the message is what the answer has too much of."""


class _Zlib:
    """gzip, several members too."""

    _wbits = 16 + zlib.MAX_WBITS
    _follows = True

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(self._wbits)
        self._members = 1

    def __call__(self, data: bytes, limit: int) -> bytes:
        out = bytearray()
        at = 0
        while at < len(data):
            if self._stream.eof:
                if not self._follows:
                    break  # bytes after the end of the stream mean nothing
                self._members += 1
                if self._members > MAX_MEMBERS:
                    raise _TooMuch("has more members")
                self._stream = zlib.decompressobj(self._wbits)
            step = data[at : at + _MEMBER_BYTES] if self._members > 1 else data[at:]
            out += self._stream.decompress(step, limit + 1 - len(out))
            if len(out) > limit:
                raise _TooMuch("decodes to more bytes")
            at += len(step) - len(self._stream.unconsumed_tail or self._stream.unused_data)
        return bytes(out)


class _Deflate(_Zlib):
    """zlib's format, or bare deflate: some servers leave out the header that RFC 9110, 8.4.1.2
    asks for. Its first two bytes tell (RFC 1950, 2.2: method 8, and a multiple of 31)."""

    _wbits = zlib.MAX_WBITS
    _follows = False

    def __init__(self) -> None:
        super().__init__()
        self._head: bytes | None = b""

    def __call__(self, data: bytes, limit: int) -> bytes:
        if self._head is not None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return b""
            self._head = None
            if data[0] & 15 != 8 or (data[0] << 8 | data[1]) % 31:
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        return super().__call__(data, limit)


class _Brotli:
    def __init__(self) -> None:
        self._stream: Any = brotli.Decompressor()

    def __call__(self, data: bytes, limit: int) -> bytes:
        out = bytearray()
        while True:
            out += self._stream.process(data, output_buffer_limit=limit + 1 - len(out))
            if len(out) > limit:
                raise _TooMuch("decodes to more bytes")
            data = b""
            if self._stream.can_accept_more_data() or self._stream.is_finished():
                return bytes(out)


class _Zstd:
    def __init__(self) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._stream: Any = self._decoder.decompressobj()
        self._frames = 1

    def __call__(self, data: bytes, limit: int) -> bytes:
        out = bytearray()
        at = 0
        while at < len(data):
            if self._stream.eof:
                self._frames += 1
                if self._frames > MAX_MEMBERS:
                    raise _TooMuch("has more frames")
                self._stream = self._decoder.decompressobj()
            step = data[at : at + _STEP_BYTES]
            out += self._stream.decompress(step)
            if len(out) > limit:
                raise _TooMuch("decodes to more bytes")
            at += len(step) - len(self._stream.unused_data)
        return bytes(out)


_STAGES: Final[dict[str, Callable[[], Callable[[bytes, int], bytes]]]] = {
    "gzip": _Zlib,
    "x-gzip": _Zlib,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}


PIECE_BYTES: Final = 64 * 1024
"""Of a request's body, about as much is decoded at a time; a block of zstd has twice as much."""


class BadCoding(Exception):
    """A body is not valid in its content coding; the message is what the coding does or has."""


def knows_coding(name: str) -> bool:
    """Whether a content coding of this name can be decoded."""
    return name in _STAGES


def decode_pieces(body: bytes, coding: str) -> Iterator[bytes]:
    """A complete body decoded in pieces of bounded size, for requests: strict where a copy of
    an answer is read tolerantly. Nothing may be missing or follow. Raises BadCoding.
    """
    try:
        match coding:
            case "br":
                yield from _brotli_pieces(body)
            case "zstd":
                yield from _zstd_pieces(body)
            case "deflate":
                yield from _zlib_pieces(body, zlib.MAX_WBITS if _has_zlib_head(body) else -15)
            case _:
                yield from _zlib_pieces(body, 16 + zlib.MAX_WBITS, members=True)
    except (zlib.error, brotli.error, zstandard.ZstdError):
        raise BadCoding("is corrupt") from None


def _has_zlib_head(data: bytes) -> bool:
    """RFC 1950, 2.2: method 8, and a multiple of 31; else it is bare deflate."""
    return len(data) >= 2 and data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0


def _zlib_pieces(body: bytes, wbits: int, *, members: bool = False) -> Iterator[bytes]:
    at = 0
    for number in range(MAX_MEMBERS):
        stream = zlib.decompressobj(wbits)
        while not stream.eof:
            step = stream.unconsumed_tail
            if not step:
                step = body[at : at + (_MEMBER_BYTES if number else PIECE_BYTES)]
                at += len(step)
            if not step:
                raise BadCoding("is cut off")
            yield stream.decompress(step, PIECE_BYTES)
        at -= len(stream.unused_data)
        if at == len(body):
            return
        if not members:
            raise BadCoding("continues after its end")
    raise BadCoding(f"has more than {MAX_MEMBERS} members")


def _brotli_pieces(body: bytes) -> Iterator[bytes]:
    stream: Any = brotli.Decompressor()
    at = 0
    while not stream.is_finished():
        step = body[at : at + PIECE_BYTES] if stream.can_accept_more_data() else b""
        at += len(step)
        piece = stream.process(step, output_buffer_limit=PIECE_BYTES)
        # It may accept more while output waits: only silence shows that the end is missing.
        if not step and not piece:
            raise BadCoding("is cut off")
        yield piece
    if at < len(body):
        raise BadCoding("continues after its end")


def _zstd_pieces(body: bytes) -> Iterator[bytes]:
    """zstandard takes no output limit, but a block has at most 128 KiB: one is fed at a time."""
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    stream: Any = None
    at = frames = 0
    for blocks, end in enumerate(_zstd_block_ends(body)):
        if stream is None or stream.eof:  # frames may follow each other
            frames += 1
            if frames > MAX_MEMBERS:
                raise BadCoding(f"has more than {MAX_MEMBERS} frames")
            stream = decoder.decompressobj()
        if blocks >= MAX_BLOCKS:
            raise BadCoding(f"has more than {MAX_BLOCKS} blocks")
        yield stream.decompress(body[at:end])
        at = end
    if stream is None or not stream.eof:
        raise BadCoding("is cut off")


def _zstd_block_ends(body: bytes) -> Iterator[int]:
    """Where each block of each frame ends (RFC 8878, 3.1.1). Raises BadCoding."""
    at = 0
    while at < len(body):
        descriptor = body[at + 4] if len(body) > at + 4 else 0
        alone = descriptor >> 5 & 1  # a single segment: no window descriptor
        at += 6 - alone + (0, 1, 2, 4)[descriptor & 3] + (alone, 2, 4, 8)[descriptor >> 6]
        is_last = False
        while not is_last:
            header = int.from_bytes(body[at : at + 3], "little")
            is_last = bool(header & 1)
            repeats_one_byte = header >> 1 & 3 == 1
            at += 3 + (1 if repeats_one_byte else header >> 3)
            if is_last and descriptor & 4:
                at += 4  # the checksum
            if at > len(body):
                raise BadCoding("is cut off")
            yield at
