"""`GET /v1/requests/ID`: one request of a key's customer, from its hold to what it was charged.

A request of another customer is as unknown as one that never was: same status, same body.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.app.key_holders.reading import StoreReads
from gateway.domain.delivery import Place, StoredEvent
from gateway.domain.events import USAGE_KINDS, Event
from gateway.domain.money import format_amount
from gateway.domain.reservation import Account
from gateway.flow.refusals import Refused
from gateway.http.interface import Exchange, encode_fields
from gateway.ledger.audit import Audit
from gateway.ledger.codec.reservation_records import Ended, Reservation
from gateway.ledger.outbox import Outbox
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.documents import line_amounts, timestamp
from gateway.operations.why import CHARGING, FindRates, Story, trace_event

_REQUEST_ID: Final = re.compile("[0-9a-f]{32}")
_LABELS: Final = ("model", "key_id", "project_id", "route", "livemode", "retry_of", "tags")
_OUTCOMES: Final = ("finish_reason", "http_status", "duration_ms", "usage_source", "flags")

FindRefusalNear = Callable[[str, int], Awaitable[NotedRefusal | None]]
"""(request id, when it came in Unix ms) → its refusal."""


@dataclass(frozen=True, slots=True)
class RequestReader:
    """Where a request of a customer leaves traces."""

    reads: StoreReads
    audit: Audit
    outbox: Outbox
    find_refusal: FindRefusalNear
    find_rates: FindRates

    async def find(self, account: Account, request_id: str) -> Story | None:
        """What is known of a request of this account; None if nothing, or if it is another's.

        Raises LedgerUnavailable, Refused.
        """
        if not _REQUEST_ID.fullmatch(request_id):
            return None
        record = await self.audit.reservation(account.shard, request_id)
        if isinstance(record, Reservation) and record.customer_id != account.customer_id:
            return None
        found = await self._events(account, request_id, record)
        refused = None
        if record is None and not found:
            refused = await self.find_refusal(request_id, int(request_id[:12], 16))
            if refused is None or refused.refused.customer_id != account.customer_id:
                return None
        hold = record if isinstance(record, Reservation) else None
        ended = record if isinstance(record, Ended) else None
        if not found and refused is None and hold is None:
            return None  # it has ended, and whose it was is not known
        events = tuple([await trace_event(each, self.find_rates) for each in found])
        return Story(request_id, refused, hold, ended, events, {})

    async def _events(
        self, account: Account, request_id: str, record: Reservation | Ended | None
    ) -> list[StoredEvent | Event]:
        """Its events, the last of which may not have been delivered yet."""
        found: list[StoredEvent | Event] = [*await self._stored(account, request_id)]
        if isinstance(record, Ended) and record.epoch:
            last = await self.outbox.at(account.shard, Place(record.epoch, record.seq))
            known = {each.event.event_id for each in found if isinstance(each, StoredEvent)}
            if last is None and not found:  # it was delivered and trimmed in between
                return [*await self._stored(account, request_id)]
            if (
                isinstance(last, Event)
                and last.reservation_id == request_id
                and last.customer_id == account.customer_id
                and last.event_id not in known
            ):
                found.append(last)
        return found

    async def _stored(self, account: Account, request_id: str) -> list[StoredEvent]:
        customer_id = account.customer_id
        stored = await self.reads.ask(customer_id, lambda store: store.of_request(request_id))
        return [each for each in stored if each.event.customer_id == customer_id]


class RequestRoute:
    """Answers `GET /v1/requests/ID`."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader = reader

    async def __call__(self, exchange: Exchange, account: Account | None, request_id: str) -> None:
        """A `LocalAnswer`."""
        assert account is not None, "not a public route"
        story = await self._reader.find(account, exchange.path.rpartition("/")[2])
        if story is None:
            raise Refused(
                "not_found", "This customer has no request of this id.", code="request_not_found"
            )
        headers = [
            ("content-type", "application/json"),
            ("x-request-id", request_id),
            ("cache-control", "no-store"),
        ]
        await exchange.answer(200, encode_fields(headers), orjson.dumps(request_document(story)))


def request_document(story: Story) -> dict[str, Any]:
    """What the customer sees of a request: nothing of the operator's cost, upstream or grants."""
    ends = [each for each in story.events if each.event.kind in USAGE_KINDS]
    last = ends[-1] if ends else None
    facts = last.event.facts if last else {}
    refused = story.refused.refused if story.refused else None
    document: dict[str, Any] = {
        "id": story.request_id,
        "object": "request",
        "created_at": timestamp(int(story.request_id[:12], 16)),
        "status": _status(story),
        "decision": story.decision,
        "charge": format_amount(story.charged_nano),
        "held": format_amount(_held_nano(story)),
        **{name: facts.get(name) for name in (*_LABELS, *_OUTCOMES)},
        "price_version": last.event.price_version if last else None,
        "usage": dict(last.event.usage) if last else {},
        "price_lines": [
            {"unit": line.unit, "quantity": line.quantity, **line_amounts(line)}
            for line in (last.lines if last else ())
        ],
        "events": [
            {
                "id": each.event.event_id,
                "kind": each.event.kind,
                "occurred_at": timestamp(each.event.occurred_at_ms),
                "amount": format_amount(each.event.amount_nano),
            }
            for each in story.events
        ],
        "refusal": None,
    }
    if story.hold is not None:
        document |= {"key_id": story.hold.key_id, "project_id": story.hold.project_id}
    if refused is not None:
        document |= {"key_id": refused.key_id, "model": refused.model, "route": refused.route}
        document["refusal"] = {
            "reason": refused.reason,
            "http_status": refused.status,
            "message": refused.message,
            "estimate": _amount(refused.estimate_nano),
            "available": _amount(refused.available_nano),
            "limit": refused.limit,
        }
    return document


def _status(story: Story) -> str:
    if story.events:
        kinds = {each.event.kind for each in story.events}
        return "charged" if kinds & (CHARGING | {"settle_late"}) else "released"
    return "running" if story.hold is not None else "refused"


def _held_nano(story: Story) -> int:
    if story.hold is not None:
        return story.hold.held_nano
    return max((each.event.estimated_amount_nano for each in story.events), default=0)


def _amount(nano: int | None) -> str | None:
    return None if nano is None else format_amount(nano)
