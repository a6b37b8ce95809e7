"""Stand-ins for billing systems: local HTTP servers with the documented behaviour of each, for tests.

They are not the products. What they do is what each vendor's documentation says of its ingest call: body, limits,
answers, and how repeats are recognised. `broken` names customers whose items the receiver refuses.
"""

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import orjson
from aiohttp import web

Reply = tuple[int, Any]


class StandIn:
    """A server; `answers` are given first (a status, or headers with it, or seconds to wait), then its own."""

    path: ClassVar[str] = "/"
    most: ClassVar[int] = 100
    key_header: str = "authorization"
    key_value: ClassVar[str] = "Bearer the-key"

    def __init__(self) -> None:
        self.taken: dict[Any, dict[str, Any]] = {}
        """What is billed: dedupe key → item."""
        self.repeats: list[Any] = []
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int | float | tuple[int, dict[str, str]]] = []
        self.broken: set[str] = set()
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """On the same port again after a stop."""
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.Response:
        if self.key_header and request.headers.get(self.key_header) != self.key_value:
            return web.json_response({"error": "unauthorized"}, status=401)
        if request.method != "POST":
            return web.json_response({})
        body = await request.read()
        self.calls.append(({k.lower(): v for k, v in request.headers.items()}, body))
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, float):
                await asyncio.sleep(answer)
            elif isinstance(answer, tuple):
                return web.Response(status=answer[0], headers=answer[1])
            elif answer != 200:
                return web.Response(status=answer)
        if request.path != self.path:
            return web.json_response({"error": "no such path"}, status=404)
        status, found = self.receive(orjson.loads(body), request.headers.get("content-type", ""))
        return web.json_response(found, status=status)

    def take(self, key: Any, item: dict[str, Any]) -> None:
        if key in self.taken:
            self.repeats.append(key)
            assert self.taken[key] == item, "a repeat differs"
        else:
            self.taken[key] = item

    def receive(self, body: Any, content_type: str) -> Reply:
        raise NotImplementedError


class CloudEventsStandIn(StandIn):
    """A webhook that takes structured and batched CloudEvents; a bad one fails its call."""

    path = "/hook"

    def receive(self, body: Any, content_type: str) -> Reply:
        single = content_type == "application/cloudevents+json"
        assert single or content_type == "application/cloudevents-batch+json", content_type
        events = [body] if single else body
        if any(event["subject"] in self.broken for event in events):
            return 400, {"error": "unknown subject"}
        for event in events:
            assert event["specversion"] == "1.0"
            dt.datetime.fromisoformat(event["time"])
            self.take((event["source"], event["id"]), event)
        return 204, None


class OpenMeterStandIn(CloudEventsStandIn):
    """A failed batch has been accepted up to the wrong event."""

    path = "/api/v1/events"

    def receive(self, body: Any, content_type: str) -> Reply:
        assert content_type == "application/cloudevents-batch+json", content_type
        for event in body:
            if event["subject"] in self.broken:
                return 400, {"type": "about:blank", "title": "Bad Request", "status": 400}
            self.take((event["source"], event["id"]), event)
        return 204, None


class LagoStandIn(StandIn):
    """A wrong or repeated item rolls the batch back; the answer names each by its index."""

    path = "/api/v1/events/batch"

    def receive(self, body: Any, content_type: str) -> Reply:
        events = body["events"]
        if len(events) > self.most:
            return 422, {"status": 422, "error_details": {"events": ["too_many_events"]}}
        details: dict[str, Any] = {}
        for index, event in enumerate(events):
            assert re.fullmatch(r"\d+\.\d{3}", event["timestamp"])
            if event["external_subscription_id"] in self.broken:
                details[str(index)] = {"external_subscription_id": ["value_is_invalid"]}
            elif event["transaction_id"] in self.taken:
                self.repeats.append(event["transaction_id"])
                details[str(index)] = {"transaction_id": ["value_already_exist"]}
        if details:
            found = {"status": 422, "error": "Unprocessable Entity", "code": "validation_errors"}
            return 422, {**found, "error_details": details}
        for event in events:
            self.take(event["transaction_id"], event)
        return 200, {"events": events}


class FlexpriceStandIn(StandIn):
    """Accepts first; events are one if id and timestamp are equal."""

    path = "/v1/events/bulk"
    most = 1000
    key_header = "x-api-key"
    key_value = "the-key"

    def receive(self, body: Any, content_type: str) -> Reply:
        events = body["events"]
        if len(events) > self.most or any(
            event["external_customer_id"] in self.broken for event in events
        ):
            return 400, {"error": {"message": "validation failed"}}
        for event in events:
            self.take((event["event_id"], event["timestamp"]), event)
        return 202, {"message": "Events accepted for processing"}


class OrbStandIn(StandIn):
    """A 200 may name items that failed; the others are taken. refuses: answer 400 instead and take none."""

    path = "/v1/ingest"
    refuses = False

    def receive(self, body: Any, content_type: str) -> Reply:
        failed = [
            {
                "idempotency_key": event["idempotency_key"],
                "validation_errors": ["unknown external_customer_id"],
            }
            for event in body["events"]
            if event["external_customer_id"] in self.broken
        ]
        if failed and self.refuses:
            return 400, {"status": 400, "validation_failed": failed}
        wrong = {each["idempotency_key"] for each in failed}
        for event in body["events"]:
            if event["idempotency_key"] not in wrong:
                self.take(event["idempotency_key"], event)
        return 200, {"validation_failed": failed}


class MetronomeStandIn(StandIn):
    """An array of at most 100, all properties strings; 400 for the call if not."""

    path = "/v1/ingest"

    def receive(self, body: Any, content_type: str) -> Reply:
        strings = all(
            type(value) is str for event in body for value in event["properties"].values()
        )
        known = not any(event["customer_id"] in self.broken for event in body)
        if not (strings and known and len(body) <= self.most):
            return 400, {"message": "invalid event"}
        for event in body:
            self.take(event["transaction_id"], event)
        return 200, None


STAND_INS: Mapping[str, type[StandIn]] = {
    "cloudevents": CloudEventsStandIn,
    "openmeter": OpenMeterStandIn,
    "lago": LagoStandIn,
    "flexprice": FlexpriceStandIn,
    "orb": OrbStandIn,
    "metronome": MetronomeStandIn,
}


@asynccontextmanager
async def running(receiver: StandIn) -> AsyncIterator[StandIn]:
    """Start it, and stop it afterwards."""
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()
