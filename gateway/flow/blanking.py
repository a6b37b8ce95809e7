"""Blanks the gate's credential wherever an upstream's answer echoes it.

Error messages, debug endpoints and proxies in between repeat request headers. The credential belongs
to the operator, so its bytes become asterisks, as many as there were, in header fields and in the
body, also where a body's pieces split it. An answer in a content coding is decoded for the search
alone, and is cut where its plain text holds the credential: asterisks cannot be written into it.
"""

from collections.abc import Iterable
from typing import Final

from gateway.dialects.content_encoding import Decoder, decoder_for
from gateway.http.interface import Answer, Headers, Upstream, UpstreamError

LEAST_BYTES: Final = 8
"""Shorter than any credential; a shorter secret stands in ordinary text by accident."""


def secrets_of(values: Iterable[str]) -> tuple[bytes, ...]:
    """What to look for, longest first. values: of header fields that carry credentials

    The scheme of a field is no secret: of `Bearer sk-1` it is `sk-1`.
    """
    found = {value.rpartition(" ")[2].encode() for value in values}
    return tuple(sorted((s for s in found if len(s) >= LEAST_BYTES), key=len, reverse=True))


class Blanker:
    """Blanks secrets in a sequence of bytes that comes in pieces."""

    __slots__ = ("_kept", "_secrets", "found")

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self._secrets = secrets
        self._kept = b""
        self.found = False
        """A secret was there."""

    @property
    def keeps(self) -> bool:
        """Whether the beginning of what may be a secret waits for its rest."""
        return bool(self._kept)

    def feed(self, piece: bytes) -> bytes:
        """The next bytes that are known not to be part of a secret, or are blanked."""
        sent = self._kept + piece if self._kept else piece
        data = blanked(sent, self._secrets)
        self.found = self.found or data is not sent
        keep = max(_beginning(data, secret) for secret in self._secrets)
        self._kept = data[len(data) - keep :]
        return data[: len(data) - keep] if keep else data

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


class BlankedUpstream:
    """An upstream whose answers do not show its credential."""

    def __init__(self, upstream: Upstream, secrets: tuple[bytes, ...]) -> None:
        self.name = upstream.name
        self._upstream = upstream
        self._secrets = secrets

    async def send(self, method: str, path: str, headers: bytes, body: bytes) -> Answer:
        """See `Upstream.send`."""
        return BlankedAnswer(await self._upstream.send(method, path, headers, body), self._secrets)

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._upstream.close()


class BlankedAnswer:
    """An answer without the secrets."""

    __slots__ = ("_answer", "_blanker", "_coded", "_decoder", "headers", "status")

    def __init__(self, answer: Answer, secrets: tuple[bytes, ...]) -> None:
        self.status = answer.status
        self.headers = [(name, blanked(value, secrets)) for name, value in answer.headers]
        self._answer = answer
        self._blanker = Blanker(secrets)
        self._decoder: Decoder | None = decoder_for(_coding(answer.headers))
        self._coded = b""
        """Coded bytes whose plain text may begin a secret."""

    @property
    def done(self) -> bool:
        """Whether the last byte has come, and none is kept here."""
        return self._answer.done and not self._blanker.keeps

    async def read(self) -> bytes:
        """See `Answer.read`. Raises UpstreamError also where a coded answer shows a secret."""
        while piece := await self._answer.read():
            passing = self._searched(piece) if self._decoder else self._blanker.feed(piece)
            if passing:
                return passing
        rest, self._coded = self._coded or self._blanker.finish(), b""
        return rest

    def close(self) -> None:
        """See `Answer.close`."""
        self._answer.close()

    def _searched(self, piece: bytes) -> bytes:
        """The coded bytes that pass. Raises UpstreamError."""
        assert self._decoder is not None
        self._blanker.feed(self._decoder.feed(piece))
        if self._blanker.found:
            raise UpstreamError(
                "the answer shows the gate's credential in a coding", sent=True, cause="auth"
            )
        self._coded += piece
        if self._blanker.keeps:
            return b""
        passing, self._coded = self._coded, b""
        return passing


def _coding(headers: Headers) -> bytes | None:
    for name, value in headers:
        if name.lower() == b"content-encoding":
            return value
    return None
