"""One request's story."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.rendering import PREFIX, page
from gateway.admin.console.timeline import Delivery, Step, steps_of
from gateway.domain.delivery import START
from gateway.domain.stores import StoreMissing
from gateway.operations.backend import Backend
from gateway.operations.decisions import remedies
from gateway.operations.documents import story_document
from gateway.operations.holds import OpenHolds, list_holds
from gateway.operations.why import Story, why

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Viewer = Annotated[Session, Depends(require("requests.read"))]
HoldViewer = Annotated[Session, Depends(require("holds.read"))]


@dataclass(frozen=True, slots=True)
class RequestView:
    """The page. remedies: what would have let it through"""

    request_id: str
    story: Story
    customer_id: str
    steps: Sequence[Step]
    remedies: Sequence[str]
    document: str
    section: str = "events"


@dataclass(frozen=True, slots=True)
class HoldsView:
    """All open holds."""

    holds: OpenHolds
    section: str = "now"


@router.get("/requests/{request_id}")
async def show(request: Request, session: Viewer, request_id: str) -> Response:
    """The story; an unknown id gets the page, too, which says where stories end."""
    backend = session.backend
    story = await why(backend, request_id)
    deliveries = await asyncio.to_thread(_deliveries, backend, story)
    view = RequestView(
        request_id,
        story,
        _customer(story),
        steps_of(story, deliveries),
        remedies(story.refused.refused) if story.refused and story.decision == "refused" else (),
        json.dumps(story_document(story), indent=2, ensure_ascii=False),
    )
    status = 404 if story.decision == "unknown" else 200
    return page(request, session, "request.html", view, status=status)


@router.get("/holds")
async def holds(request: Request, session: HoldViewer) -> Response:
    """Every open hold, the next to expire first."""
    return page(request, session, "holds.html", HoldsView(await list_holds(session.backend)))


def _customer(story: Story) -> str:
    if story.hold is not None:
        return story.hold.customer_id
    if story.events:
        return story.events[0].event.customer_id
    return (story.refused.refused.customer_id or "") if story.refused else ""


def _deliveries(backend: Backend, story: Story) -> Mapping[str, Sequence[Delivery]]:
    """Where each event of the story has been delivered to."""
    store, configured = backend.store, backend.configured
    found: dict[str, list[Delivery]] = {}
    for trace in story.events:
        at_ms = trace.stored_at_ms
        first = Delivery(
            configured.required_sink, "waiting" if at_ms is None else "delivered", at_ms
        )
        found[trace.event.event_id] = [first]
    for sink in configured.optional_sinks:
        try:
            places = store.sink_cursors(sink)
            dead = {
                letter.event_id: letter.reason for letter in store.dead_letters(1000, sink=sink)
            }
        except StoreMissing:
            continue
        for trace in story.events:
            event = trace.event
            reached = places.get(event.shard, START) >= (event.epoch, event.seq)
            if event.event_id in dead:
                delivery = Delivery(sink, "dead", reason=dead[event.event_id])
            else:
                delivery = Delivery(sink, "delivered" if reached else "waiting")
            found[event.event_id].append(delivery)
    return found
