"""The public routes: they need no token, and do nothing without a valid signature.

An answer of 2xx means that the report is kept. Senders repeat what gets any other answer: 400 for a
signature that is wrong, 503 while the ledger cannot be reached.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path
from starlette.requests import Request

from gateway.admin.api.errors import ApiError
from gateway.admin.context import AdminContext, context_of
from gateway.admin.webhooks import source as own
from gateway.admin.webhooks import stripe
from gateway.admin.webhooks.reading import Malformed, document
from gateway.admin.webhooks.signatures import BadSignature, check_standard, check_stripe
from gateway.domain.actors import Actor
from gateway.domain.payments import Payment, Seen
from gateway.operations.payments import payment_status, receive_payment

log = structlog.get_logger("payments")

router = APIRouter(prefix="/webhooks", include_in_schema=False)

SourceName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


@router.post("/stripe")
async def receive_stripe(request: Request) -> Mapping[str, Any]:
    """Take an event of Stripe."""
    context = context_of(request)
    section = context.settings.payments.stripe
    if section is None:
        raise ApiError("not_found", "`payments.stripe` is not configured.")
    body = await request.body()
    secret = section.webhook_secret.get_secret_value().encode()
    header = request.headers.get("stripe-signature")
    try:
        check_stripe(secret, header, body, time.time())
        report = stripe.report_of(document(body), section.customer_from)
    except (BadSignature, Malformed) as error:
        raise _refused(stripe.SOURCE, error) from error
    if isinstance(report, stripe.Ignored):
        log.info("payment_report_ignored", source=stripe.SOURCE, why=report.why)
        return {"received": True, "ignored": report.why}
    return _answer(await _receive(context, report))


@router.post("/payments/{source}")
async def receive_source(source: SourceName, request: Request) -> Mapping[str, Any]:
    """Take a report of another system."""
    context = context_of(request)
    section = context.settings.payments.sources.get(source)
    if section is None:
        raise ApiError("not_found", f"There is no source {source!r} in `payments.sources`.")
    body = await request.body()
    try:
        check_standard(section.keys(), request.headers, body, time.time())
        report = own.report_of(source, document(body))
    except (BadSignature, Malformed) as error:
        raise _refused(source, error) from error
    return _answer(await _receive(context, report))


async def _receive(context: AdminContext, report: Seen) -> Payment:
    backend = replace(context.backend, actor=Actor("webhook", report.source))
    terms = context.settings.payments.terms(report.source)
    payment = await receive_payment(backend, terms, report)
    said = {"payment": payment.id, "customer": payment.done.account_id}
    if payment.done.problem is None:
        log.info("payment_received", **said, status=payment_status(payment))
    else:
        log.warning("payment_waits", **said, problem=payment.done.problem)
    return payment


def _answer(payment: Payment) -> Mapping[str, Any]:
    return {"received": True, "payment": payment.id, "status": payment_status(payment)}


def _refused(source: str, error: Exception) -> ApiError:
    log.warning("payment_report_refused", source=source, why=str(error))
    code = "signature_invalid" if isinstance(error, BadSignature) else "body_malformed"
    return ApiError(code, f"The webhook was refused: {error}.")
