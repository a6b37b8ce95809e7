"""A stand-in for Stripe's meter events (v1, and the v2 stream) with the documented behaviour, for tests.

It is not Stripe. Identifiers are unique for 24 hours by a clock that tests can move; customers and meters must
exist; a timestamp must be within 35 days before and 5 minutes after now.
"""

import datetime as dt
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson
from aiohttp import web

from tests.support.billing_standins import StandIn

DAY_S = 86_400


@dataclass(frozen=True)
class Metered:
    meter: str
    customer: str
    value: int
    at_s: int


class StripeStandIn(StandIn):
    key_value = "Bearer sk_test_key"

    def __init__(self) -> None:
        super().__init__()
        self.meters = {"llm_input", "llm_output", "llm_spend"}
        self.customers = {"cus_acme", "cus_zeta"}
        self.metered: list[Metered] = []
        self.seen: dict[str, float] = {}
        self.repeats: list[str] = []
        self.now_s: float | None = None
        """Moved by tests; None: the real clock, and no check of timestamps."""
        self.tokens: dict[str, float] = {}
        self.token_s = 900.0
        self.may_read = True
        self.key_header = ""  # checked here, as the stream has tokens

    @property
    def totals(self) -> dict[tuple[str, str], int]:
        """What the meters show, by customer and meter."""
        found: dict[tuple[str, str], int] = {}
        for each in self.metered:
            key = each.customer, each.meter
            found[key] = found.get(key, 0) + each.value
        return found

    async def _handle(self, request: web.Request) -> web.Response:
        token = request.headers.get("authorization", "")
        if request.path == "/v2/billing/meter_event_stream":
            if self.tokens.get(token.removeprefix("Bearer "), 0) < time.time():
                return _error(401, "the token has expired", "billing_meter_event_session_expired")
        elif token != self.key_value:
            return _error(401, "Invalid API Key provided", None)
        if request.method == "GET":
            if not self.may_read:
                return _error(403, "the key cannot read meters", None)
            data = [{"event_name": name} for name in sorted(self.meters)]
            return web.json_response({"data": data, "has_more": False})
        body = await request.read()
        self.calls.append((dict(request.headers), body))
        if self.answers:
            answer = self.answers.pop(0)
            assert isinstance(answer, int)
            if answer != 200:
                return web.Response(status=answer)
        if request.path == "/v2/billing/meter_event_session":
            token = f"session_{len(self.tokens)}"
            self.tokens[token] = time.time() + self.token_s
            until = dt.datetime.fromtimestamp(self.tokens[token], dt.UTC).isoformat()
            return web.json_response({"authentication_token": token, "expires_at": until})
        if request.path == "/v2/billing/meter_event_stream":
            return self._stream(orjson.loads(body)["events"])
        assert request.path == "/v1/billing/meter_events"
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        return self._one(
            form["identifier"],
            Metered(
                form["event_name"],
                form["payload[stripe_customer_id]"],
                int(form["payload[value]"]),
                int(form["timestamp"]),
            ),
        )

    def _one(self, identifier: str, metered: Metered) -> web.Response:
        assert len(identifier) <= 100
        if metered.meter not in self.meters:
            return _error(400, f"No active meter found for {metered.meter}", None)
        if metered.customer not in self.customers:
            return _error(400, f"No such customer: '{metered.customer}'", "resource_missing")
        now_s = self.now_s or time.time()
        if self.now_s and not now_s - 35 * DAY_S <= metered.at_s <= now_s + 300:
            return _error(400, "timestamp is outside the window", "timestamp_too_far_in_past")
        if self.seen.get(identifier, -DAY_S) > now_s - DAY_S:
            self.repeats.append(identifier)
            return _error(400, f"An event already exists with identifier {identifier}.", None)
        self._add(identifier, metered, now_s)
        return web.json_response({"object": "billing.meter_event", "identifier": identifier})

    def _stream(self, events: list[Mapping[str, Any]]) -> web.Response:
        """Repeats are dropped silently; a field of the wrong form fails the call."""
        now_s = self.now_s or time.time()
        if len(events) > 100 or any(not each["payload"]["value"] for each in events):
            return _error(400, "invalid events", None)
        if any(each["payload"]["stripe_customer_id"].startswith("bad") for each in events):
            return _error(400, "invalid stripe_customer_id", None)
        for each in events:
            identifier, payload = each["identifier"], each["payload"]
            at_s = int(dt.datetime.fromisoformat(each["timestamp"]).timestamp())
            metered = Metered(
                each["event_name"], payload["stripe_customer_id"], int(payload["value"]), at_s
            )
            if self.seen.get(identifier, -DAY_S) > now_s - DAY_S:
                self.repeats.append(identifier)
            else:
                self._add(identifier, metered, now_s)
        return web.json_response({})

    def _add(self, identifier: str, metered: Metered, now_s: float) -> None:
        self.seen[identifier] = now_s
        self.metered.append(metered)


def _error(status: int, message: str, code: str | None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": code}}, status=status)
