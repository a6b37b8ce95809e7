"""Where an answer passes its meter on the way to the client."""

from gateway.dialects.base import AnswerFacts, Limit, Meter
from gateway.flow.blanking import Decoding
from gateway.http.interface import Exchange


class Unmetered(Meter):
    """Passes a response of a free route on unread."""

    def __init__(self) -> None:
        self.facts = AnswerFacts()

    def feed(self, data: bytes, limit: Limit | None = None) -> bytes:  # noqa: ARG002
        return data

    def finish(self, *, broken: bool = False) -> bytes:  # noqa: ARG002
        return b""


class Tap:
    """Feeds a meter, decoding a copy if the upstream sent a content coding unasked.

    A coded piece passes on once all that is in it is covered.
    """

    __slots__ = ("_coded_piece", "_decoder", "_meter", "coded", "takes_comments")

    def __init__(self, meter: Meter, decoder: Decoding | None) -> None:
        self._meter = meter
        self._decoder = decoder
        self._coded_piece = b""
        self.coded = decoder is not None
        """The gate can add nothing to such an answer."""
        self.takes_comments = not self.coded
        """Only a stream of events has them."""

    @property
    def waiting(self) -> bool:
        """Whether something that has come waits until more is held."""
        return self._meter.waiting

    @property
    def inside(self) -> bool:
        """Whether the client has the beginning of something whose end has not come."""
        return self._meter.inside

    def feed(self, piece: bytes, limit: Limit | None = None) -> bytes:
        """What passes on now, of this piece and of what waits: coded bytes all at once, others as the
        meter says."""
        if self._decoder is None:
            return self._meter.feed(piece, limit)
        if piece:
            self._coded_piece += piece
            piece = self._decoder.feed(piece)
            self._meter.facts.unreadable = self._decoder.problem
        self._meter.feed(piece, limit)
        if self._meter.waiting:
            return b""
        passing, self._coded_piece = self._coded_piece, b""
        return passing

    def finish(self, *, broken: bool = False) -> bytes:
        """The answer has ended; what of it was still held back."""
        rest = self._meter.finish(broken=broken)
        if self.coded:
            rest, self._coded_piece = self._coded_piece, b""
        return b"" if broken else rest

    async def end_with(self, exchange: Exchange, frame: bytes) -> None:
        """End the client's stream by an error frame. A coded one, one that has no such frames, and
        one that ends inside a frame, can only be broken off."""
        if self.coded or not frame or self._meter.inside:
            exchange.abort()
            return
        await exchange.write(frame)
        await exchange.end()
