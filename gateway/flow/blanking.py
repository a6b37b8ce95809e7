"""Blanks the gate's credential wherever an upstream's response echoes it.

Error messages, debug endpoints and proxies in between repeat request headers. The credential belongs
to the operator, so its bytes become asterisks, as many as there were, in header fields and in the
body, also where a body's pieces split it. A response in a content coding is decoded for the search,
and is cut before its decoded text would show the credential: asterisks cannot be written into it. Its
reader gets the decoded text too (`decoder_of`), so that it is decoded once.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from gateway.dialects.content_encoding import Decoder, decoder_for
from gateway.http.interface import UpstreamError, UpstreamResponse

LEAST_BYTES: Final = 8
"""Shorter than any credential; a shorter secret occurs in ordinary text by accident."""


def secrets_of(values: Iterable[str]) -> tuple[bytes, ...]:
    """What to look for, longest first. values: of header fields that carry credentials

    The scheme of a field is no secret: of `Bearer sk-1` it is `sk-1`.
    """
    found = {value.rpartition(" ")[2].encode() for value in values}
    return tuple(sorted((s for s in found if len(s) >= LEAST_BYTES), key=len, reverse=True))


def blank_in(secrets: tuple[bytes, ...]) -> Callable[[UpstreamResponse], None]:
    """A function that makes an upstream's response hide these secrets (`UpstreamPool.inspect`)."""

    def inspect(response: UpstreamResponse) -> None:
        raw = response.raw
        for secret in secrets:
            if secret in raw:
                response.values = tuple(blanked(value, secrets) for value in response.values)
                break
        else:
            # The usual response: complete, in one piece, and without any of them.
            if response.in_raw and b"content-encoding" not in response.names.index:
                return
        decoder = decoder_for(response.header(b"content-encoding"))
        response.transform = (
            Blanker(secrets) if decoder is None else CodedSearch(Blanker(secrets), decoder)
        )

    return inspect


class Blanker:
    """Blanks secrets in a body that comes in pieces. See `BodyTransform`."""

    __slots__ = ("_ends", "_kept", "_secrets", "found")

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self._secrets = secrets
        self._ends = b"".join(secrets)
        """Each byte that can be the last of a secret's beginning."""
        self._kept = b""
        self.found = False
        """A secret was there."""

    @property
    def keeps(self) -> bool:
        """Whether the beginning of what may be a secret waits for its rest."""
        return bool(self._kept)

    def feed(self, data: bytes) -> bytes:
        """The next bytes that are known not to be part of a secret, or are blanked."""
        if self._kept:
            data = self._kept + data
            self._kept = b""
        for secret in self._secrets:
            if secret in data:
                self.found = True
                data = data.replace(secret, b"*" * len(secret))
        if data and data[-1] in self._ends:
            keep = max(_beginning(data, secret) for secret in self._secrets)
            if keep:
                self._kept = data[len(data) - keep :]
                return data[: len(data) - keep]
        return data

    def finish(self) -> bytes:
        """What was kept: the secret did not follow."""
        rest, self._kept = self._kept, b""
        return rest


def blanked(data: bytes, secrets: tuple[bytes, ...]) -> bytes:
    """The bytes with every secret in them blanked."""
    for secret in secrets:
        if secret in data:
            data = data.replace(secret, b"*" * len(secret))
    return data


def _beginning(data: bytes, secret: bytes) -> int:
    """How many bytes at the end of the data are the beginning of a secret."""
    first = secret[:1]
    at = data.find(first, max(0, len(data) - len(secret) + 1))
    while at >= 0:
        if secret.startswith(data[at:]):
            return len(data) - at
        at = data.find(first, at + 1)
    return 0


class Decoding(Protocol):
    """What decodes a copy of a coded body. problem: why it ended early, or None."""

    @property
    def problem(self) -> str | None: ...

    def feed(self, data: bytes) -> bytes:
        """The decoded text of the next bytes."""
        ...


def decoder_of(response: UpstreamResponse, coding: bytes | None) -> Decoding | None:
    """What decodes a copy of this response's body as it is read, None when it is not coded.

    coding: its Content-Encoding
    """
    if isinstance(response.transform, CodedSearch):
        return response.transform.shared
    return decoder_for(coding)


class CodedSearch:
    """Searches the decoded text of a coded body; the coded bytes pass. See `BodyTransform`."""

    __slots__ = ("_blanker", "_coded", "_decoder", "shared")

    def __init__(self, blanker: Blanker, decoder: Decoder) -> None:
        self._blanker = blanker
        self._decoder = decoder
        self._coded = b""
        """Coded bytes whose decoded text may begin a secret."""
        self.shared = SharedDecoding(decoder)

    @property
    def keeps(self) -> bool:
        """Whether coded bytes wait for those that follow."""
        return bool(self._coded)

    def feed(self, data: bytes) -> bytes:
        """The coded bytes that pass. Raises UpstreamError where the decoded text shows a secret."""
        text = self._decoder.feed(data)
        self._blanker.feed(text)
        if self._blanker.found:
            raise UpstreamError(
                "the response shows the gate's credential in a content coding",
                sent=True,
                cause="auth",
            )
        self.shared.add(text)
        coded = self._coded + data if self._coded else data
        if self._blanker.keeps:
            self._coded = coded
            return b""
        self._coded = b""
        return coded

    def finish(self) -> bytes:
        """The coded bytes that were kept."""
        rest, self._coded = self._coded, b""
        self._blanker.finish()
        return rest


class SharedDecoding:
    """The decoded text of a body that `CodedSearch` has read, for whoever reads the body.

    It is handed out as the reader feeds the coded bytes back, which must be as it has read them.
    """

    __slots__ = ("_decoder", "_texts")

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._texts: list[bytes] = []

    @property
    def problem(self) -> str | None:
        """Why decoding ended early, or None."""
        return self._decoder.problem

    def add(self, text: bytes) -> None:
        """Decoded text of coded bytes that the reader will have."""
        if text:
            self._texts.append(text)

    def feed(self, data: bytes) -> bytes:
        """The decoded text of what was read since the last call. data: not looked at"""
        del data
        text = b"".join(self._texts)
        self._texts.clear()
        return text
