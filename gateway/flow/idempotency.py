"""Requests with an `Idempotency-Key`: the first one runs, repeats get its result or a 409.

Rules:
- a name belongs to the customer, the API key and the route; the ledger keeps only digests, next to
  the hold, for a day (`IDEMPOTENCY_TTL_MS`);
- another body under the same name is 422, always;
- while the first request runs a repeat is 409 with `Retry-After`; what was released was not
  charged, and its name may be used again;
- once the first has been charged a repeat is 409 with what it cost and `x-should-retry: false`, or
  its recorded answer where the operator keeps answers.

It is read before the body, so that a name that cannot be is refused before anything else is done.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.domain.money import format_amount
from gateway.domain.reservation import IdempotencyKey, Repeated
from gateway.flow.context import RequestContext
from gateway.flow.kept_responses import AnswerStore, KeptAnswer
from gateway.flow.refusals import Particulars, Refused
from gateway.http.interface import Exchange, encode_fields
from gateway.ledger.codec.reservation_records import Ended, Reservation

HEADER: Final = "idempotency-key"
DIGEST_BYTES: Final = 16
_VISIBLE: Final = re.compile(r"[!-~]{1,255}")


def read_name(exchange: Exchange) -> str | None:
    """What the client calls its request, None when it gives it no name. Raises Refused."""
    if exchange.header(HEADER) is None:
        return None
    values = exchange.header_values(HEADER)
    if len(values) != 1 or not _VISIBLE.fullmatch(values[0]):
        raise Refused(
            "bad_request",
            "The Idempotency-Key must be one value of 1 to 255 visible ASCII characters.",
            code="invalid_idempotency_key",
        )
    return values[0]


def idempotency_of(context: RequestContext) -> IdempotencyKey:
    """The digests that the ledger keeps of a named request."""
    assert context.name is not None
    who = "\0".join((context.owner, context.endpoint, context.name))
    return IdempotencyKey(digest(who.encode()).hex(), digest(context.fingerprint()))


def digest(data: bytes) -> bytes:
    """SHA-256, the first 16 bytes: 0.8 µs for a kilobyte, 0.6 ms for a megabyte (with SHA-NI)."""
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request cost, and the event that says so."""

    nano: int
    event_id: str


FindRecord = Callable[[str, str], Awaitable[Reservation | Ended | None]]
"""A reservation of a customer, or its tombstone; None when the ledger has neither any more."""
FindCharge = Callable[[str], Awaitable[Charge | None]]
"""What a reservation was charged, by the store of events; None when it does not know."""


class Repeats:
    """Answers the repeats of named requests."""

    def __init__(
        self, find_record: FindRecord, find_charge: FindCharge, answers: AnswerStore
    ) -> None:
        self._find_record = find_record
        self._find_charge = find_charge
        self._answers = answers

    async def answer(self, context: RequestContext, repeats: Repeated) -> None:
        """Give the recorded response. Raises Refused where there is none, LedgerUnavailable,
        ClientGone."""
        customer_id = context.plan.account.customer_id
        first = repeats.reservation_id
        if not repeats.same_body:
            raise Refused(
                "unprocessable",
                f"This Idempotency-Key was sent with another body before, by request {first}."
                " Repeat that body, or use a new key.",
                Particulars(reason="idempotency_key_reused"),
                code="idempotency_key_reused",
            )
        record = await self._find_record(customer_id, first)
        if isinstance(record, Reservation):
            raise Refused(
                "conflict",
                f"The request with this Idempotency-Key still runs: {first}. Try again shortly.",
                Particulars(
                    reason="request_in_progress",
                    detail={"reason": "request_in_progress", "request_id": first},
                ),
                code="request_in_progress",
            )
        kept = await self._answers.find(first) if context.plan.policy.keep_answers else None
        if kept is None:
            raise _already_done(first, await self._charge(first, record))
        fields = encode_fields(_headers(kept, context.request_id))
        await context.exchange.answer(kept.status, fields, kept.body)

    async def _charge(self, reservation_id: str, record: Ended | None) -> Charge | None:
        if record is not None:
            return Charge(record.charged_nano, f"{reservation_id}:{record.outcome}")
        return await self._find_charge(reservation_id)


def _already_done(reservation_id: str, charge: Charge | None) -> Refused:
    detail: dict[str, str | int] = {"reason": "already_done", "request_id": reservation_id}
    cost = ""
    if charge is not None:
        cost = f" and cost {format_amount(charge.nano)} credits"
        detail |= {"cost": format_amount(charge.nano), "event_id": charge.event_id}
    return Refused(
        "already_done",
        f"The request with this Idempotency-Key has been done{cost}: {reservation_id}. Its answer is"
        " not kept. Use a new key to run it again.",
        Particulars(reason="already_done", detail=detail),
    )


def _headers(kept: KeptAnswer, request_id: str) -> list[tuple[str, str]]:
    return [
        ("content-type", kept.media_type),
        ("x-request-id", request_id),
        ("idempotent-replayed", "true"),
        ("x-credits-cost", format_amount(kept.charged_nano)),
    ]
