"""Passing an answer on to the client while it is metered.

Three forms: a stream (each piece at once, the hold growing with it), a whole answer (so that
its cost can stand in a header), and an answer of a free route. When the client has gone the
policy decides: the rest is drained for its usage, bounded in time, or the upstream is closed.

Headers of the gate on every priced answer: `x-credits-reserved` (what was held at first),
`x-credits-remaining` (what the wallet can still reserve beside this hold). On an answer that is
settled before it is sent, and in the comments that end a stream whose client sent
`x-credits-trailer`: `x-credits-cost`, and as remaining the balance after it.
"""

from asyncio import CancelledError
from contextlib import suppress
from typing import Final

from gateway.dialects.base import (
    EVENT_STREAM,
    Answered,
    Dialect,
    Refusal,
    RequestFacts,
    form_of,
    may_be_events,
)
from gateway.domain.money import format_amount
from gateway.flow.blanking import decoder_of
from gateway.flow.headers import Forwarding, read_head
from gateway.flow.refusals import refused_by_kill, refused_growth
from gateway.flow.reservation.run import Run
from gateway.flow.tap import Tap
from gateway.http.interface import (
    ClientGone,
    Exchange,
    UpstreamAuthError,
    UpstreamError,
    UpstreamResponse,
)

WHOLE_ANSWER_MAX_BYTES: Final = 16 * 1024 * 1024
"""A JSON answer beyond this is streamed on as it comes, without the cost header."""

AUTH_STATUSES: Final = frozenset({401, 403})
"""The upstream sees the gate's credential alone: what it says of it is the operator's to mend."""

DISCARDED_MAX_BYTES: Final = 1024 * 1024
"""So much of such an answer is read for the usage in it."""

START_MAX_BYTES: Final = 1024
"""So many blanks at the start of an answer are waited through for what follows."""

SETTLE_WAIT_S: Final = 1.0
"""How long a whole answer waits for its settlement, for the sake of the cost header."""

Fields = list[tuple[str, str]]


async def relay(
    exchange: Exchange,
    answer: UpstreamResponse,
    run: Run,
    dialect: Dialect,
    asked: RequestFacts,
    request_id: str,
    asked_at_s: float = 0.0,
) -> UpstreamError | None:
    """Pass one answer on and meter it into `run`. Raises ClientGone, UpstreamError; UpstreamAuthError
    for an answer that is about the gate's own credential, which the client does not see.

    asked_at_s: when the request went out, by the monotonic clock

    Returns the error that broke a stream off, whose client has been told.
    """
    head = read_head(answer.headers, run.model.forwarding.returned)
    run.status = answer.status
    run.event["upstream_request_id"] = head.request_id
    failed = answer.status >= 400
    media_type = head.media_type.decode("latin-1").lower()
    start = b""
    if not media_type.startswith(EVENT_STREAM) and dialect.reads_start and not failed:
        start = await _read_start(answer)
    run.streaming = not failed and dialect.streams(asked, media_type, start)
    answered = Answered(answer.status, answer.headers, asked_at_s, start)
    meter = dialect.meter_answer(asked, answered, streaming=run.streaming)
    run.facts = meter.facts
    tap = Tap(meter, decoder_of(answer, head.coding))
    if answer.status in AUTH_STATUSES:
        await _discard(answer, run, tap)
        raise UpstreamAuthError(answer.status)
    if run.streaming:
        tap.takes_comments &= media_type.startswith(EVENT_STREAM) or form_of(start) == "events"
    headers = [
        *head.fields,
        ("x-request-id", request_id),
        ("x-credits-reserved", format_amount(run.hold.held_nano)),
    ]
    if failed:
        headers.append(("x-error-source", "upstream"))
    if run.bound.lowered is not None:
        headers.append(("x-credits-max-tokens", str(run.bound.lowered)))
    if run.streaming:
        headers.append(_remaining(run.hold.available_nano))
        return await _relay_stream(
            exchange, answer, run, tap, headers, dialect, asked, request_id, start
        )
    await _relay_whole(exchange, answer, run, tap, headers, head.media_type, start)
    return None


async def relay_free(
    exchange: Exchange, answer: UpstreamResponse, forwarding: Forwarding, request_id: str
) -> None:
    """Pass on the answer of a free route as it comes. Raises ClientGone, UpstreamError."""
    if answer.status in AUTH_STATUSES:
        raise UpstreamAuthError(answer.status)
    headers = [*read_head(answer.headers, forwarding.returned).fields, ("x-request-id", request_id)]
    if answer.status >= 400:
        headers.append(("x-error-source", "upstream"))
    await exchange.start(answer.status, headers, None)
    while piece := await answer.read():
        await exchange.write(piece)
    await exchange.end()


async def _relay_stream(
    exchange: Exchange,
    answer: UpstreamResponse,
    run: Run,
    tap: Tap,
    headers: Fields,
    dialect: Dialect,
    asked: RequestFacts,
    request_id: str,
    start: bytes,
) -> UpstreamError | None:
    try:
        await exchange.start(answer.status, headers, None)
        while True:
            try:
                piece, start = start or await answer.read(), b""
            except UpstreamError as error:
                tap.finish(broken=True)
                run.note_failure(error, "upstream_cut")
                await tap.end_with(
                    exchange, dialect.end_stream(asked, _cut_by_upstream(request_id))
                )
                return error
            if not piece:
                break
            if not await _pass_on(exchange, piece, run, tap, answer):
                await _cut(exchange, run, tap, dialect, asked, request_id)
                return None
        rest = tap.finish()
        if rest and run.watch(ended=True) and not await run.covered():
            await _cut(exchange, run, tap, dialect, asked, request_id)
            return None
        run.stage = "whole"
        if rest:
            await exchange.write(rest)
        if exchange.header("x-credits-trailer") and tap.takes_comments and not tap.inside:
            if rest:
                await exchange.write(b"\n\n")  # ends the frame that the upstream did not end
            await _write_cost_comments(exchange, run)
        await exchange.end()
        return None
    except CancelledError:
        if run.killed is None:
            raise
        refused = refused_by_kill(run.killed)
        frame = dialect.end_stream(asked, refused.as_refusal(request_id))
        await tap.end_with(exchange, frame)
        return None
    except ClientGone:
        if start:
            tap.feed(start)  # the client left before its head
        if run.stage == "sent" and run.linger_ms:
            await _drain(answer, run, tap)
        raise


async def _cut(
    exchange: Exchange,
    run: Run,
    tap: Tap,
    dialect: Dialect,
    asked: RequestFacts,
    request_id: str,
) -> None:
    """End a stream that nobody can pay for any further."""
    run.stage = "cut"
    run.flag("cut")
    refused = refused_growth(run.refused, format_amount(run.held_nano))
    await tap.end_with(exchange, dialect.end_stream(asked, refused.as_refusal(request_id)))


async def _pass_on(
    exchange: Exchange, piece: bytes, run: Run, tap: Tap, answer: UpstreamResponse
) -> bool:
    """Pass on what of this piece is held, waiting for the hold to grow. False when the credit has
    ended: the rest is not passed on."""
    passing = tap.feed(piece, run.limit)
    while True:
        if passing:
            await exchange.write(passing)
        covered = True
        if run.watch(ended=answer.done and not tap.waiting):
            covered = await run.covered()
        elif not tap.waiting:
            return True
        # The hold may also have grown while the client's buffer was full.
        passing = b""
        if tap.waiting:
            passing = tap.feed(b"", run.limit)
        if not covered:
            if passing:
                await exchange.write(passing)
            return False


async def _relay_whole(
    exchange: Exchange,
    answer: UpstreamResponse,
    run: Run,
    tap: Tap,
    headers: Fields,
    media_type: bytes,
    start: bytes,
) -> None:
    pieces: list[bytes] = []
    size = 0
    while piece := start or await answer.read():
        start = b""
        tap.feed(piece)
        pieces.append(piece)
        size += len(piece)
        if size > WHOLE_ANSWER_MAX_BYTES:
            break
    else:
        tap.finish()
        run.stage = "whole"
        body = b"".join(pieces)
        if not tap.coded:
            run.keep(answer.status, media_type, body)
        told = await _cost_fields(run) if run.policy.answer_cost_header else None
        headers += told or [_remaining(run.hold.available_nano)]
        await exchange.answer(answer.status, headers, body)
        return
    headers.append(_remaining(run.hold.available_nano))
    run.streaming = True  # from here on the client has what has come
    try:
        await exchange.start(answer.status, headers, None)
        await exchange.write(b"".join(pieces))
        pieces.clear()
        while piece := await answer.read():
            tap.feed(piece)
            await exchange.write(piece)
    except (UpstreamError, ClientGone):
        tap.finish(broken=True)
        raise
    tap.finish()
    run.stage = "whole"
    await exchange.end()


async def _drain(answer: UpstreamResponse, run: Run, tap: Tap) -> None:
    """Read on without a client, for the usage at the end: as far as the hold goes, and as long as
    `Run.linger_ms` lets it.

    Raises UpstreamError.
    """
    run.flag("client_gone")
    run.flag("drained")
    run.drain()
    try:
        while not run.watch():
            piece = await answer.read()
            if not piece:
                run.stage = "whole"
                return
            tap.feed(piece)
    finally:
        tap.finish(broken=run.stage != "whole")


async def _discard(answer: UpstreamResponse, run: Run, tap: Tap) -> None:
    """Read a failed answer for the usage in it, and pass nothing on."""
    run.flag("upstream_auth")
    size = 0
    with suppress(UpstreamError):  # its status has said what matters
        while piece := await answer.read():
            tap.feed(piece)
            size += len(piece)
            if size > DISCARDED_MAX_BYTES:
                break
        else:
            run.stage = "whole"
    tap.finish(broken=run.stage != "whole")


async def _read_start(answer: UpstreamResponse) -> bytes:
    """The first bytes of an answer, as many as it takes to see what it is. Raises UpstreamError."""
    start = await answer.read()
    while start and len(start) < START_MAX_BYTES and may_be_events(start):
        piece = await answer.read()
        if not piece:
            break
        start += piece
    return start


def _remaining(nano: int) -> tuple[str, str]:
    return "x-credits-remaining", format_amount(nano)


async def _cost_fields(run: Run) -> Fields:
    """Cost and remaining of the settled request; nothing when the ledger takes too long."""
    settled = await run.settled_within(SETTLE_WAIT_S)
    if settled is None:
        return []
    return [
        ("x-credits-cost", format_amount(settled.charged_nano)),
        _remaining(settled.balance_nano),
    ]


async def _write_cost_comments(exchange: Exchange, run: Run) -> None:
    """SSE comment lines start with a colon; parsers skip them (WHATWG HTML, 9.2.6)."""
    for name, value in await _cost_fields(run):
        await exchange.write(f": {name} {value}\n\n".encode())


def _cut_by_upstream(request_id: str) -> Refusal:
    return Refusal(
        "upstream_unreachable",
        "The upstream closed the connection before completing its response.",
        request_id,
    )
