"""Passing an answer on to the client while it is metered.

Three forms: a stream (each piece at once, the hold growing with it), a whole answer (so that
its cost can stand in a header), and an answer of a free route. When the client has gone the
policy decides: the rest is drained for its usage, bounded in time, or the upstream is closed.
"""

from gateway.dialects.base import Dialect, Meter, Refusal, RequestFacts
from gateway.dialects.coding import Decoder, decoder_for
from gateway.domain.money import format_amount
from gateway.proxy.headers import find, returned
from gateway.proxy.http import Answer, ClientGone, Exchange, UpstreamError
from gateway.proxy.running import Run

WHOLE_ANSWER_MAX_BYTES = 16 * 1024 * 1024
"""A JSON answer beyond this is streamed on as it comes, without the cost header."""

SETTLE_WAIT_S = 1.0
"""How long a whole answer waits for its settlement, for the sake of the cost header."""


async def relay(
    exchange: Exchange,
    answer: Answer,
    run: Run,
    dialect: Dialect,
    asked: RequestFacts,
    request_id: str,
) -> None:
    """Pass one answer on and meter it into `run`. Raises ClientGone, UpstreamError."""
    media_type = find(answer.headers, b"content-type") or b""
    run.streaming = media_type.lower().startswith(b"text/event-stream") and answer.status < 400
    meter = dialect.meter(asked, streaming=run.streaming)
    run.facts = meter.facts
    tap = _Tap(meter, decoder_for(find(answer.headers, b"content-encoding")))
    headers = [*returned(answer.headers), ("x-request-id", request_id), *_credit_headers(run)]
    if answer.status >= 400:
        headers.append(("x-error-source", "upstream"))
    if run.streaming:
        await _relay_stream(exchange, answer, run, tap, headers, dialect, request_id)
    else:
        await _relay_whole(exchange, answer, run, tap, headers)


async def relay_free(exchange: Exchange, answer: Answer, request_id: str) -> None:
    """Pass on the answer of a free route as it comes. Raises ClientGone, UpstreamError."""
    headers = [*returned(answer.headers), ("x-request-id", request_id)]
    await exchange.start(answer.status, headers, None)
    while piece := await answer.read():
        await exchange.write(piece)
    await exchange.end()


async def _relay_stream(
    exchange: Exchange,
    answer: Answer,
    run: Run,
    tap: "_Tap",
    headers: list[tuple[str, str]],
    dialect: Dialect,
    request_id: str,
) -> None:
    try:
        await exchange.start(answer.status, headers, None)
        while True:
            try:
                piece = await answer.read()
            except UpstreamError as error:
                run.broken = True
                run.flags.append("upstream_timeout" if error.timeout else "upstream_cut")
                await _end_with_error(exchange, dialect, _cut_by_upstream(request_id))
                return
            if not piece:
                break
            passing = tap.feed(piece)
            if passing:
                await exchange.write(passing)
            if run.watch():
                run.flags.append("cut")
                run.facts.finish_reason = "error"
                await _end_with_error(exchange, dialect, _out_of_credit(run, request_id))
                return
        rest = tap.finish()
        if rest:
            await exchange.write(rest)
        if exchange.header("x-credits-trailer"):
            await _write_cost_comment(exchange, run)
        await exchange.end()
    except ClientGone:
        if run.linger_ms(stream=True):
            await _drain(answer, run, tap)
        raise


async def _relay_whole(
    exchange: Exchange, answer: Answer, run: Run, tap: "_Tap", headers: list[tuple[str, str]]
) -> None:
    pieces: list[bytes] = []
    size = 0
    while piece := await answer.read():
        tap.feed(piece)
        pieces.append(piece)
        size += len(piece)
        if size > WHOLE_ANSWER_MAX_BYTES:
            break
    else:
        tap.finish()
        if run.policy.answer_cost_header:
            headers.extend(await _cost_headers(run))
        await exchange.answer(answer.status, headers, b"".join(pieces))
        return
    await exchange.start(answer.status, headers, None)
    await exchange.write(b"".join(pieces))
    pieces.clear()
    while piece := await answer.read():
        tap.feed(piece)
        await exchange.write(piece)
    tap.finish()
    await exchange.end()


async def _drain(answer: Answer, run: Run, tap: "_Tap") -> None:
    """Read on without a client, for the usage at the end; `Run.linger_ms` bounds it."""
    run.flags.append("drained")
    try:
        while piece := await answer.read():
            tap.feed(piece)
            run.watch()
        tap.finish()
    except UpstreamError:
        run.broken = True


async def _end_with_error(exchange: Exchange, dialect: Dialect, refusal: Refusal) -> None:
    await exchange.write(dialect.error_frame(refusal))
    await exchange.end()


async def _cost_headers(run: Run) -> list[tuple[str, str]]:
    settled = await run.settled_within(SETTLE_WAIT_S)
    if settled is None:
        return []
    return [
        ("x-credits-cost", format_amount(settled.charged_nano)),
        ("x-credits-remaining", format_amount(settled.balance_nano)),
    ]


async def _write_cost_comment(exchange: Exchange, run: Run) -> None:
    """SSE comment lines start with a colon; parsers skip them (WHATWG HTML, 9.2.6)."""
    for name, value in await _cost_headers(run):
        await exchange.write(f": {name} {value}\n\n".encode())


def _credit_headers(run: Run) -> list[tuple[str, str]]:
    return [("x-credits-reserved", format_amount(run.hold.held_nano))]


def _cut_by_upstream(request_id: str) -> Refusal:
    return Refusal(
        "upstream_unreachable", "The upstream broke off in the middle of its answer.", request_id
    )


def _out_of_credit(run: Run, request_id: str) -> Refusal:
    return Refusal(
        "no_credit",
        "The credit was used up while this answer ran; it was cut here. Add credits to go on.",
        request_id,
        detail={"reason": "insufficient_credits", "estimate": format_amount(run.hold.held_nano)},
    )


class _Tap:
    """Feeds a meter, decoding a copy where the upstream sent a coding all the same."""

    __slots__ = ("_decoder", "_meter")

    def __init__(self, meter: Meter, decoder: Decoder | None) -> None:
        self._meter = meter
        self._decoder = decoder

    def feed(self, piece: bytes) -> bytes:
        """What of this piece passes on: coded bytes all, others as the meter says."""
        if self._decoder is None:
            return self._meter.feed(piece)
        self._meter.feed(self._decoder.feed(piece))
        return piece

    def finish(self) -> bytes:
        rest = self._meter.finish()
        return rest if self._decoder is None else b""
