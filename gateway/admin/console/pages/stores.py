"""Stores and signals: where events are, what was not delivered, and whether everything adds up."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console import text
from gateway.admin.console.jobs import Job, jobs_of
from gateway.admin.console.rendering import PREFIX, Toast, done, page
from gateway.admin.context import context_of
from gateway.app.stores import find_sink, signal_schedule, store_access
from gateway.domain.delivery import Anomaly, DeadLetter, StoredSignal
from gateway.domain.event_rows import EventRow, row_of
from gateway.domain.stores import EventStore, StoreMissing
from gateway.exporter.replay import Replayed, replay, send_test_event
from gateway.exporter.signal_schedule import ScheduleUnavailable
from gateway.exporter.signals import send_test_signal
from gateway.exporter.sink import SinkUnavailable
from gateway.exporter.sinks.registry import DriverMissing
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend
from gateway.operations.drifts import Verified
from gateway.operations.errors import NotFound, OperationError
from gateway.operations.export_status import ExportStatus, export_status
from gateway.operations.payments import (
    WaitingPayments,
    payment_status,
    retry_payment,
    waiting_payments,
)
from gateway.operations.signals import resend_signal
from gateway.operations.verify import verify
from gateway.settings import Settings

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Viewer = Annotated[Session, Depends(require("signals.read"))]
Sending = Annotated[Session, Depends(require("signals.write"))]
Exporting = Annotated[Session, Depends(require("exports.write"))]
Paying = Annotated[Session, Depends(require("payments.write"))]
Verifying = Annotated[Session, Depends(require("verify.run"))]

SHOWN: Final = 25
DEAD_MOST: Final = 10_000
_SAMPLE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """What one sink could not take; sink "" is the required store. can_replay: the store has the events"""

    sink: str
    count: int
    letters: Sequence[DeadLetter]
    can_replay: bool


@dataclass(frozen=True, slots=True)
class InStore:
    """What the store knows besides events. problem: why it cannot be read, "" if it can"""

    dead: Sequence[DeadLetters] = ()
    anomalies: Sequence[Anomaly] = ()
    signals: Sequence[StoredSignal] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StoresView:
    """The page. webhook: whether signals are sent anywhere"""

    status: ExportStatus
    oldest_s: float | None
    required: str
    shown: str
    stored: InStore
    webhook: bool
    payments: WaitingPayments
    verified: Job[Verified] | None
    replayed: Job[Replayed] | None
    section: str = "stores"


@router.get("/stores")
async def show(request: Request, session: Viewer) -> Response:
    """The page."""
    backend, settings = session.backend, context_of(request).settings
    status, stored, now_ms, payments = await asyncio.gather(
        export_status(backend, _SAMPLE_S),
        asyncio.to_thread(_in_store, backend),
        backend.ledger_time_ms(),
        waiting_payments(backend, limit=SHOWN),
    )
    oldest_s = None if status.oldest_ms is None else max(0, now_ms - status.oldest_ms) / 1000
    jobs = jobs_of(request)
    view = StoresView(
        status,
        oldest_s,
        backend.configured.required_sink,
        store_access(settings).shown,
        stored,
        settings.signals.webhook is not None,
        payments,
        jobs.last("verify"),
        jobs.last("replay"),
    )
    return page(request, session, "stores.html", view)


def _in_store(backend: Backend) -> InStore:
    store = backend.store
    try:
        counts = store.dead_letter_counts()
        dead = [
            DeadLetters(sink, count, store.dead_letters(SHOWN, sink=sink)[::-1], bool(sink))
            for sink, count in sorted(counts.items())
            if count
        ]
        return InStore(dead, store.anomalies(SHOWN)[::-1], store.signals(SHOWN)[::-1])
    except StoreMissing as missing:
        return InStore(problem=str(missing))


@router.post("/stores/verify")
async def start_verify(request: Request, session: Verifying) -> Response:
    """Check every identity of the ledger and the store."""
    backend = session.backend

    async def work(job: Job[Verified]) -> Verified:
        def report(what: str, count: int, total: int) -> None:
            job.progress = f"{what}: {count:,}" + (f" of {total:,}" if total else "")

        return await verify(backend.audit, backend.outbox, backend.store, report)

    jobs_of(request).start("verify", session.actor.name, work)
    return done(request, "/stores#verify", Toast("Verifying."))


@router.post("/stores/sinks/{sink}/test")
async def try_sink(request: Request, _: Exporting, sink: str) -> Response:
    """Send one marked event of no charge."""
    settings = context_of(request).settings
    try:
        event, written = await send_test_event(find_sink(settings, sink))
    except (SinkUnavailable, DriverMissing, OperationError) as error:
        return done(request, "/stores", Toast(f"{sink}: {error}", "bad"))
    if written.failed:
        said = Toast(f"{sink} did not take it: {written.failed[0].reason}", "bad")
    elif written.skipped:
        said = Toast(f"{sink} can be reached; it takes no events of this kind.")
    else:
        said = Toast(f"{sink} has {event.event_id}.")
    return done(request, "/stores", said)


@router.post("/stores/sinks/{sink}/replay")
async def replay_dead(request: Request, session: Exporting, sink: str) -> Response:
    """Send a sink's dead letters again, with the ids and times that they had."""
    settings, backend = context_of(request).settings, session.backend
    if sink not in backend.configured.optional_sinks:
        raise NotFound(f"there is no optional sink {sink!r}")

    async def work(job: Job[Replayed]) -> Replayed:
        rows = await asyncio.to_thread(_dead_rows, settings, sink)

        def report(sent: int) -> None:
            job.progress = f"{sent:,} of {len(rows):,} events to {sink}"

        noted = Noted("export.replay", sink, reason=f"its {len(rows)} dead letters")
        try:
            async with audited(backend, noted):
                return await replay(sink, find_sink(settings, sink), rows, report)
        except (SinkUnavailable, DriverMissing) as error:
            raise OperationError(str(error)) from error

    jobs_of(request).start("replay", session.actor.name, work)
    return done(request, "/stores#dead", Toast(f"Replaying the dead letters of {sink}."))


@router.post("/stores/payments/{payment_id}/retry")
async def retry(request: Request, session: Paying, payment_id: str) -> Response:
    """Go on with a payment that waits."""
    terms = context_of(request).settings.payments.terms(payment_id.partition(":")[0])
    try:
        payment = await retry_payment(session.backend, terms, payment_id)
    except OperationError as error:
        return done(request, "/stores#payments", Toast(str(error), "bad"))
    said = Toast(f"{payment.id} is {text.words(payment_status(payment))}.")
    if payment.done.problem is not None:
        said = Toast(f"{payment.id} still waits: {payment.done.problem}", "warn")
    return done(request, "/stores#payments", said)


@router.post("/stores/signals/{signal_id}/resend")
async def resend(request: Request, session: Sending, signal_id: str) -> Response:
    """Queue a signal again."""
    settings = context_of(request).settings

    def queue() -> None:
        schedule = signal_schedule(settings)
        try:
            resend_signal(schedule, signal_id)
        finally:
            schedule.close()

    try:
        async with audited(session.backend, Noted("signal.resend", signal_id)):
            await asyncio.to_thread(queue)
    except (ScheduleUnavailable, OperationError) as error:
        return done(request, "/stores#signals", Toast(str(error), "bad"))
    return done(request, "/stores#signals", Toast("Queued for delivery."))


@router.post("/stores/webhook/test")
async def try_webhook(request: Request, _: Sending) -> Response:
    """Send a test signal to the webhook of signals."""
    section: Any = context_of(request).settings.signals.webhook
    if section is None:
        raise NotFound("no webhook is configured: set `signals.webhook`")
    reason = await send_test_signal(section.compiled())
    said = Toast("The webhook accepted a test signal.")
    if reason is not None:
        said = Toast(f"The webhook did not accept it: {reason}.", "bad")
    return done(request, "/stores#signals", said)


def _dead_rows(settings: Settings, sink: str) -> list[EventRow]:
    """The stored events that a sink's dead letters name. Raises StoreMissing."""
    with store_access(settings).open() as store:
        return [
            row
            for letter in store.dead_letters(DEAD_MOST, sink=sink)
            if (row := _row(store, letter))
        ]


def _row(store: EventStore, letter: DeadLetter) -> EventRow | None:
    stored = store.event(letter.event_id) if letter.event_id else None
    return None if stored is None else row_of(stored.event)
