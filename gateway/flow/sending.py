"""Sends a request to an upstream of its model: chooses it, and another one after a failure.

Invariants:

- An upstream whose breaker is open gets nothing, and what only it could serve is refused before
  anything is reserved.
- A request goes to another upstream only if the first cannot have received it (`sent=False`), or
  answered a status that its configuration names as "not processed" (`failover_statuses`).
"""

import time
from asyncio import current_task
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.dialects.passing import passing_query
from gateway.flow.context import RequestContext
from gateway.flow.known_head import KnownHead
from gateway.flow.observer import Observer
from gateway.flow.plan import Plan
from gateway.flow.refusals import Particulars, Refused
from gateway.flow.reservation.reservation import Reservation
from gateway.http.client.target import join_query
from gateway.http.interface import ClientGone, UpstreamCause, UpstreamError, UpstreamResponse

_NOT_ITS_FAULT: Final[frozenset[UpstreamCause]] = frozenset({"busy", "stopped", "auth"})
"""Failures that say nothing about whether the upstream works."""

FAILED_OVER: Final = "failed_over"
"""The event's flag."""
UPSTREAM_OPEN: Final = "upstream_open"
"""The reason of a refusal because of a breaker."""
TOO_MANY_REQUESTS: Final = 429


class Sender:
    """Chooses upstreams and sends to them. One for each worker."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def choose(self, context: RequestContext, plan: Plan) -> Plan:
        """The plan for the upstream that the request goes to; the caller sets it as the context's.

        Raises Refused when no upstream of the model admits it.
        """
        if context.probe:  # the request starts over with another account
            self.drop_probe(context)
        now = time.monotonic()
        spread, breaker = plan.spread, plan.breaker
        if spread is None:
            if not breaker.admits(now):
                raise _refused(breaker.wait_s(now))
        else:
            place = spread.choose(now)
            if place is None:
                raise _refused(spread.wait_s(now))
            plan = plan.at(place)
        context.probe = plan.breaker.probe(now)
        return plan

    async def send(
        self, context: RequestContext, known: KnownHead, reservation: Reservation
    ) -> UpstreamResponse:
        """Forward the request and wait for the head of its response. Raises UpstreamError."""
        exchange, facts, dialect = context.exchange, context.facts, context.route.dialect
        task = current_task()
        assert task is not None
        reservation.interrupt = task.cancel
        exchange.on_gone(reservation.client_left)
        while True:
            plan = context.plan
            model = plan.model
            options = plan.forward_options(facts, context.estimate.lowered)
            target = dialect.forward_target(facts, options, exchange.path)
            if exchange.query:
                target = join_query(target, passing_query(dialect.api, exchange.query))
            fields = known.forwarded(model.forwarding, dialect.forward_type(facts))
            body = dialect.forward_body(facts, options)
            if reservation.client_gone:
                raise ClientGone
            sent_at = context.sent_at = time.monotonic()
            reservation.progress.advance("sent")
            try:
                response = await model.upstream.send(
                    exchange.method,
                    target,
                    b"%bx-request-id: %b\r\n" % (fields, context.request_id.encode()),
                    body,
                    owner=plan.account.customer_id,
                )
            except UpstreamError as error:
                other = None if error.sent else self._another(context, reservation)
                if other is None:
                    raise
                self.failed(context, error)
                self._go_on(context, reservation, other, error.cause)
                continue
            if response.status < 400 and not context.probe:
                plan.breaker.successes += 1
            else:
                other = self._answered(context, reservation, response)
                if other is not None:
                    response.close()
                    self._go_on(context, reservation, other, str(response.status))
                    continue
            head_arrived = plan.head_arrived
            if head_arrived is None:
                head_arrived = plan.head_arrived = self._observer.head_arrivals(model.upstream)
            context.upstream = model.upstream.name
            context.upstream_s = took_s = time.monotonic() - sent_at
            head_arrived(took_s)
            return response

    def failed(self, context: RequestContext, error: UpstreamError) -> None:
        """The upstream gave no complete response, or refused the gate's credential."""
        self._observer.upstream_failed(context, error)
        if error.cause in _NOT_ITS_FAULT or context.counted_failed:
            return
        if context.upstream_s > 0:
            context.plan.breaker.successes -= 1  # as which its head was counted
        self._note_failure(context, error.cause)

    def drop_probe(self, context: RequestContext) -> None:
        """The request has ended without showing whether its upstream is back."""
        context.plan.breaker.drop(context.probe)
        context.probe = 0

    def _note_failure(self, context: RequestContext, why: str) -> None:
        context.counted_failed = True
        probe, context.probe = context.probe, 0
        if context.plan.breaker.fail(time.monotonic(), probe):
            self._observer.breaker_opened(context.plan.model.upstream, why)

    def _answered(
        self, context: RequestContext, reservation: Reservation, response: UpstreamResponse
    ) -> Plan | None:
        """Draw the conclusions from an error, or from the response to a probe; the plan for another
        upstream if the request goes there."""
        plan, status = context.plan, response.status
        breaker, spread = plan.breaker, plan.spread
        if status in breaker.limits.failure_statuses:
            self._note_failure(context, str(status))
        elif context.probe:
            context.probe = 0
            breaker.close()
            self._observer.breaker_closed(plan.model.upstream)
        else:
            breaker.successes += 1
        if spread is None:
            return None
        if status == TOO_MANY_REQUESTS:
            breaker.rest(time.monotonic(), retry_after_s(response))
        if status not in spread.targets[plan.place].failover_statuses:
            return None
        return self._another(context, reservation)

    def _another(self, context: RequestContext, reservation: Reservation) -> Plan | None:
        """The plan for another upstream of the model, for a request that this one has not taken."""
        plan = context.plan
        if plan.spread is None or reservation.progress.stage != "sent":
            return None
        context.tried = (*context.tried, plan.place)
        place = plan.spread.choose(time.monotonic(), context.tried)
        return None if place is None else plan.at(place)

    def _go_on(
        self, context: RequestContext, reservation: Reservation, plan: Plan, why: str
    ) -> None:
        """The request goes to another upstream of its model. why: a cause, or a status"""
        if context.probe:
            self.drop_probe(context)
        self._observer.failed_over(context, why)
        reservation.progress.advance("unsent")
        reservation.progress.flag(FAILED_OVER)
        context.counted_failed = False
        context.plan = reservation.plan = plan
        context.probe = plan.breaker.probe(time.monotonic())


def _refused(retry_after_s: int) -> Refused:
    return Refused(
        "upstream_unreachable",
        "The upstream of this model keeps failing, so nothing is sent to it at the moment."
        f" Try again in {retry_after_s} s.",
        Particulars(reason=UPSTREAM_OPEN, status=503, retry_after_s=retry_after_s),
    )


def retry_after_s(response: UpstreamResponse) -> float:
    """How long a response asks to wait, by `retry-after-ms` or `retry-after` (RFC 9110, 10.2.3: seconds
    or a date); 0 where it does not say so in a form that can be read."""
    given_ms = response.header(b"retry-after-ms")
    if given_ms is not None and given_ms.isdigit():
        return int(given_ms) / 1000
    given = response.header(b"retry-after") or b""
    if given.isdigit():
        return int(given)
    try:
        until = parsedate_to_datetime(given.decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return 0
    return max(0, until - time.time())
