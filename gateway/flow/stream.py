"""Passes a stream on: each piece at once, the hold growing with it.

Nothing waits for what has not arrived. What has arrived together, up to a whole stream, leaves in one
write: `more` says that the next call follows without waiting.
"""

from asyncio import CancelledError
from dataclasses import dataclass
from typing import Final

from gateway.dialects.base import Refusal
from gateway.domain.money import format_amount
from gateway.domain.reservation import Settled
from gateway.flow.context import RequestContext
from gateway.flow.denials import refused_growth
from gateway.flow.headers import ResponseHead
from gateway.flow.refusals import Refused, refused_by_kill
from gateway.flow.reservation.reservation import Reservation
from gateway.flow.tap import Tap
from gateway.http.interface import ClientGone, UpstreamError, UpstreamResponse

SETTLE_WAIT_S: Final = 1.0
"""How long a response waits for its settlement, for the sake of the cost that it shows."""


@dataclass(slots=True)
class Relayed:
    """One response on its way through the gate."""

    context: RequestContext
    response: UpstreamResponse
    reservation: Reservation
    tap: Tap
    head: ResponseHead


async def relay_stream(relayed: Relayed, start: bytes) -> None:
    """Pass a stream on. start: its first bytes, where they were read already

    Raises ClientGone, CancelledError. A stream that breaks, or that nobody can pay for any further,
    ends with an error frame; `context.broken` says what the upstream did.
    """
    context, response, reservation = relayed.context, relayed.response, relayed.reservation
    exchange, tap, progress = context.exchange, relayed.tap, reservation.progress
    fields = relayed.head.lines + remaining_field(reservation)
    try:
        await exchange.start(response.status, fields, None, more=bool(start) or response.ready)
        while True:
            try:
                piece, start = start or await response.read(), b""
            except UpstreamError as error:
                tap.finish(broken=True)
                reservation.note_failure(error, "upstream_cut")
                context.broken = error
                await _end_with(relayed, _broken_off(context.request_id))
                return
            if not piece:
                break
            if not await _pass_on(relayed, piece):
                await _cut(relayed)
                return
        rest = tap.finish()
        growth = reservation.growth
        if rest and growth.watch(ended=True):
            await exchange.write(b"")
            if not await growth.covered():
                await _cut(relayed)
                return
        progress.advance("complete")
        if rest:
            await exchange.write(rest, more=True)
        if exchange.header("x-credits-trailer") and tap.takes_comments and not tap.inside:
            # The end of a frame that the upstream did not end; this also sends what was kept.
            await exchange.write(b"\n\n" if rest else b"")
            await _write_cost(relayed)
        await exchange.end()
    except CancelledError:
        if progress.killed is None:
            raise
        await _end_with(relayed, refused_by_kill(progress.killed))
    except ClientGone:
        if start:
            tap.feed(start)  # the client left before its head
        if progress.stage == "sent" and reservation.linger_ms:
            await _drain(relayed)
        raise


async def _pass_on(relayed: Relayed, piece: bytes) -> bool:
    """Pass on what of this piece is held, waiting for the hold to grow. False when the credit is
    exhausted: the rest is not passed on."""
    tap, growth = relayed.tap, relayed.reservation.growth
    exchange = relayed.context.exchange
    passing = tap.feed(piece, growth.limit)
    while True:
        last = relayed.response.done and not tap.waiting
        used_up = growth.watch(ended=last)
        await exchange.write(passing, more=last and not used_up)
        covered = True
        if used_up:
            covered = await growth.covered()
        elif not tap.waiting:
            return True
        # The hold may also have grown while the client's buffer was full.
        passing = tap.feed(b"", growth.limit) if tap.waiting else b""
        if not covered:
            if passing:
                await exchange.write(passing)
            return False


async def _cut(relayed: Relayed) -> None:
    """End a stream that nobody can pay for any further."""
    reservation = relayed.reservation
    reservation.progress.advance("cut")
    reservation.progress.flag("cut")
    held = format_amount(reservation.held_nano)
    await _end_with(relayed, refused_growth(reservation.growth.refused, held))


async def _end_with(relayed: Relayed, refused: Refused | Refusal) -> None:
    """End a stream by an error frame of its dialect."""
    context = relayed.context
    if isinstance(refused, Refused):
        refused = refused.as_refusal(context.request_id)
    frame = context.route.dialect.end_stream(context.facts, refused)
    await relayed.tap.end_with(context.exchange, frame)


async def _drain(relayed: Relayed) -> None:
    """Read on without a client, for the usage at the end: as far as the hold goes, and as long as
    `Reservation.linger_ms` lets it. Raises UpstreamError."""
    reservation, tap = relayed.reservation, relayed.tap
    progress, growth = reservation.progress, reservation.growth
    progress.flag("client_gone")
    progress.flag("drained")
    growth.drain()
    try:
        while not growth.watch():
            piece = await relayed.response.read()
            if not piece:
                progress.advance("complete")
                return
            tap.feed(piece)
    finally:
        tap.finish(broken=progress.stage != "complete")


def cost_fields(settled: Settled) -> bytes:
    """Cost and remaining of a settled request, encoded."""
    charged, balance = format_amount(settled.charged_nano), format_amount(settled.balance_nano)
    return f"x-credits-cost: {charged}\r\nx-credits-remaining: {balance}\r\n".encode()


def remaining_field(reservation: Reservation) -> bytes:
    """What the wallet could reserve besides this hold, encoded; nothing where credit is not shown."""
    if not reservation.plan.shows_credit:
        return b""
    return f"x-credits-remaining: {format_amount(reservation.hold.available_nano)}\r\n".encode()


async def _write_cost(relayed: Relayed) -> None:
    """SSE comment lines start with a colon; parsers skip them (WHATWG HTML, 9.2.6)."""
    if not relayed.reservation.plan.shows_credit:
        return
    settled = await relayed.reservation.settled_within(SETTLE_WAIT_S)
    if settled is not None:
        for field in cost_fields(settled).splitlines():
            await relayed.context.exchange.write(b": %b\n\n" % field.replace(b": ", b" ", 1))


def _broken_off(request_id: str) -> Refusal:
    return Refusal(
        "upstream_unreachable",
        "The upstream closed the connection before completing its response.",
        request_id,
    )
