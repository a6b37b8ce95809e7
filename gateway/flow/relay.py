"""Passes a response on to the client while it is metered.

A response that does not stream is kept until its end, so that its cost can be a header; a stream is
`stream.py`. When the client has gone the policy decides: the rest is drained for its usage, for a
limited time, or the upstream's connection is closed.

Headers of the gate on every priced response: `x-credits-reserved` (what was held at first) and
`x-credits-remaining` (what the wallet can still reserve besides this hold). On a response that is
settled before it is sent, and in the comments that end a stream whose client sent
`x-credits-trailer`: `x-credits-cost`, and as remaining the balance after it.
"""

from contextlib import suppress
from typing import Final

from gateway.dialects.base import EVENT_STREAM, Answered, Meter, form_of, may_be_events
from gateway.domain.money import format_amount
from gateway.flow.blanking import decoder_of
from gateway.flow.context import RequestContext
from gateway.flow.headers import ResponseHead
from gateway.flow.reservation.reservation import Reservation
from gateway.flow.stream import SETTLE_WAIT_S, Relayed, cost_fields, relay_stream, remaining_field
from gateway.flow.tap import Tap, Unmetered
from gateway.http.interface import ClientGone, UpstreamAuthError, UpstreamError, UpstreamResponse

WHOLE_ANSWER_MAX_BYTES: Final = 16 * 1024 * 1024
"""A response beyond this is streamed on as it comes, without the cost header."""

AUTH_STATUSES: Final = frozenset({401, 403})
"""The upstream sees the gate's credential alone: what it says about it is the operator's to fix."""

DISCARDED_MAX_BYTES: Final = 1024 * 1024
"""How much of such a response is read for the usage in it."""

START_MAX_BYTES: Final = 1024
"""How many blanks at the start of a response are read past to see what follows."""

_FROM_UPSTREAM: Final = b"x-error-source: upstream\r\n"


async def relay(
    context: RequestContext, response: UpstreamResponse, reservation: Reservation
) -> None:
    """Pass one response on and meter it into the reservation.

    `context.broken` is set if the upstream ended a stream early; the client then gets an error frame.
    Raises ClientGone, UpstreamError; UpstreamAuthError for a response that is about the gate's own
    credential, which the client does not see.
    """
    plan, facts, progress = context.plan, context.facts, reservation.progress
    dialect = plan.route.dialect
    head = plan.model.forwarding.returning.read(response.names, response.values)
    status = progress.status = response.status
    reservation.event.upstream_request_id = head.request_id
    failed, free = status >= 400, plan.model.free
    start = b""
    events = head.media_type.startswith(EVENT_STREAM)
    # Events that have arrived are metered as they are passed on, not before: a client may leave.
    complete = response.done and not events
    if complete:
        start = response.take()
    elif dialect.reads_start and not (failed or free or events):
        start = await _read_start(response)
    streams = not failed and (free or dialect.streams(facts, head.media_type, start))
    progress.streaming = streams
    meter: Meter
    decoder = None
    if free:
        meter = Unmetered()
    else:
        if plan.meters_by_head:
            answered = Answered(status, response.headers, context.sent_at, start)
            meter = dialect.meter_answer(facts, answered, streaming=streams)
        else:
            meter = dialect.meter(facts, streaming=streams)
        reservation.facts = meter.facts
        if head.content_encoding is not None or response.transform is not None:
            decoder = decoder_of(response, head.content_encoding)
    if complete and decoder is None and not streams and status not in AUTH_STATUSES:
        # The usual answer: there is nothing to decode, to wait for or to pass on before its end.
        _add_fields(head, reservation, failed=failed)
        meter.feed(start)
        meter.finish()
        await _answer(reservation, status, head, start, coded=False)
        return
    tap = Tap(meter, decoder)
    if status in AUTH_STATUSES:
        await _discard(Relayed(context, response, reservation, tap, head), start)
        raise UpstreamAuthError(status)
    _add_fields(head, reservation, failed=failed)
    if streams:
        tap.takes_comments &= events or form_of(start) == "events"
        await relay_stream(Relayed(context, response, reservation, tap, head), start)
    elif complete:
        tap.feed(start)
        tap.finish()
        await _answer(reservation, status, head, start, coded=tap.coded)
    else:
        await _relay_complete(Relayed(context, response, reservation, tap, head), start)


def _add_fields(head: ResponseHead, reservation: Reservation, *, failed: bool) -> None:
    """Add the gate's own fields, all but the cost and what remains."""
    request_id = reservation.context.request_id.encode()
    if not reservation.plan.shows_credit:
        head.lines = b"%bx-request-id: %b\r\n" % (head.lines, request_id)
    else:
        held = format_amount(reservation.hold.held_nano).encode()
        own = b"%bx-request-id: %b\r\nx-credits-reserved: %b\r\n"
        head.lines = own % (head.lines, request_id, held)
    if failed:
        head.lines += _FROM_UPSTREAM
    lowered = reservation.estimate.lowered
    if lowered is not None:
        head.lines += b"x-credits-max-tokens: %d\r\n" % lowered


async def _relay_complete(relayed: Relayed, start: bytes) -> None:
    """Pass on a response that does not stream."""
    response, tap = relayed.response, relayed.tap
    pieces: list[bytes] = []
    size = 0
    while piece := start or await response.read():
        start = b""
        tap.feed(piece)
        pieces.append(piece)
        size += len(piece)
        if size > WHOLE_ANSWER_MAX_BYTES:
            await _relay_large(relayed, pieces)
            return
    tap.finish()
    body = b"".join(pieces)
    await _answer(relayed.reservation, response.status, relayed.head, body, coded=tap.coded)


async def _answer(
    reservation: Reservation, status: int, head: ResponseHead, body: bytes, *, coded: bool
) -> None:
    """Settle a response that has arrived and been metered completely, and pass it on with its cost."""
    reservation.progress.advance("complete")
    if reservation.idempotency is not None and not coded:
        reservation.keep(status, head.media_type, body)
    plan = reservation.plan
    cost = b""
    if plan.policy.answer_cost_header and plan.shows_credit:
        settled = await reservation.settled_within(SETTLE_WAIT_S)
        if settled is not None:
            cost = cost_fields(settled)
    fields = head.lines + (cost or remaining_field(reservation))
    await reservation.context.exchange.answer(status, fields, body)


async def _relay_large(relayed: Relayed, pieces: list[bytes]) -> None:
    """Pass on, as it arrives, a response that is too large to keep."""
    exchange, response = relayed.context.exchange, relayed.response
    progress, tap = relayed.reservation.progress, relayed.tap
    progress.streaming = True  # from here on the client has what has arrived
    fields = relayed.head.lines + remaining_field(relayed.reservation)
    try:
        await exchange.start(response.status, fields, None)
        await exchange.write(b"".join(pieces))
        pieces.clear()
        while piece := await response.read():
            tap.feed(piece)
            await exchange.write(piece)
    except (UpstreamError, ClientGone):
        tap.finish(broken=True)
        raise
    tap.finish()
    progress.advance("complete")
    await exchange.end()


async def _discard(relayed: Relayed, start: bytes) -> None:
    """Read a failed response for the usage in it, and pass nothing on."""
    response, tap, progress = relayed.response, relayed.tap, relayed.reservation.progress
    progress.flag("upstream_auth")
    size = 0
    with suppress(UpstreamError):  # its status has said what matters
        while piece := start or await response.read():
            start = b""
            tap.feed(piece)
            size += len(piece)
            if size > DISCARDED_MAX_BYTES:
                break
        else:
            progress.advance("complete")
    tap.finish(broken=progress.stage != "complete")


async def _read_start(response: UpstreamResponse) -> bytes:
    """The first bytes of a response, as many as it takes to see what it is. Raises UpstreamError."""
    start = await response.read()
    while start and len(start) < START_MAX_BYTES and may_be_events(start):
        piece = await response.read()
        if not piece:
            break
        start += piece
    return start
