"""Passes a stream on: each piece at once, the hold growing with it.

Nothing waits for what has not arrived. What has arrived together, up to a whole stream, leaves in one
write: `more` says that the next call follows without waiting.
"""

from asyncio import CancelledError
from dataclasses import dataclass
from typing import Final

from gateway.dialects.base import Refusal
from gateway.domain.customers import customer_of
from gateway.domain.money import format_amount
from gateway.domain.reservation import Settled
from gateway.flow.context import RequestContext
from gateway.flow.denials import refused_growth
from gateway.flow.headers import ResponseHead
from gateway.flow.held_end import HeldEnd
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
    end: HeldEnd | None = None
    """Where the client is to find the cost in the usage chunk."""


async def relay_stream(relayed: Relayed, start: bytes) -> None:
    """Pass a stream on. start: its first bytes, where they were read already

    Raises ClientGone, CancelledError. A stream that breaks, or that nobody can pay for any further,
    ends with an error frame; `context.broken` says what the upstream did.
    """
    context, response, reservation = relayed.context, relayed.response, relayed.reservation
    exchange, tap, progress = context.exchange, relayed.tap, reservation.progress
    if _shows_cost(relayed):
        relayed.end = HeldEnd()
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
            await exchange.write(_passing(relayed, rest), more=True)
        comments = (
            exchange.header("x-credits-trailer")
            and tap.takes_comments
            and not tap.inside
            and context.plan.shows_credit
        )
        end = relayed.end
        if comments or (end is not None and end.holds):
            await _end_with_cost(relayed, comments=bool(comments), open_frame=bool(rest))
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
        if relayed.end is not None:
            passing = _passing(relayed, passing)
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
                await exchange.write(_passing(relayed, passing))
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
        plan = context.plan
        refused.tell_top_up(plan.policy.top_up_url, customer_of(plan.account.customer_id)[0])
        refused = refused.as_refusal(context.request_id)
    frame = context.route.dialect.end_stream(context.facts, refused)
    if relayed.end is not None and relayed.end.holds:
        await context.exchange.write(relayed.end.release())
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


def _shows_cost(relayed: Relayed) -> bool:
    """Whether the client asked for the usage of a stream in whose last chunk the cost is written."""
    plan, facts = relayed.context.plan, relayed.context.facts
    return (
        plan.policy.stream_cost
        and plan.route.dialect.usage_in_chunks
        and facts.stream
        and facts.wants_usage
        and plan.shows_credit
        and not relayed.tap.coded
    )


def _passing(relayed: Relayed, data: bytes) -> bytes:
    """What of the client's next bytes passes now."""
    if relayed.end is None:
        return data
    return relayed.end.take(data, relayed.reservation.facts)


async def _end_with_cost(relayed: Relayed, *, comments: bool, open_frame: bool) -> None:
    """Settle, and write the cost into the usage chunk that waits and into comments, as asked for.

    open_frame: the upstream has not ended its last frame
    """
    exchange, end = relayed.context.exchange, relayed.end
    holds = end is not None and end.holds
    # This also sends what was kept to leave together.
    await exchange.write(b"\n\n" if comments and open_frame and not holds else b"")
    settled = await relayed.reservation.settled_within(SETTLE_WAIT_S)
    if end is not None and holds:
        await exchange.write(end.release(settled), more=True)
        if comments and open_frame:
            await exchange.write(b"\n\n", more=True)
    if comments and settled is not None:
        # Comment lines start with a colon; parsers skip them (WHATWG HTML, 9.2.6).
        for field in cost_fields(settled).splitlines():
            await exchange.write(b": %b\n\n" % field.replace(b": ", b" ", 1))


def _broken_off(request_id: str) -> Refusal:
    return Refusal(
        "upstream_unreachable",
        "The upstream closed the connection before completing its response.",
        request_id,
    )
