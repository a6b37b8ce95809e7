"""Stripe's two ways to send meter events: one a call (v1), or batches through the meter event stream (v2).

v1 names a refused event and a repeated identifier in its answer. The stream is for live mode and high volumes;
it needs a session token, which is valid for 15 minutes, and checks customers and meters only afterwards (Stripe
reports them by the event `v1.billing.meter.error_report_triggered`).
"""

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import orjson

from gateway.exporter.sink import SinkUnavailable
from gateway.exporter.sinks.http_client import Caller
from gateway.exporter.sinks.options_stripe import StripeOptions
from gateway.exporter.sinks.stripe_windows import MeterEvent

API_VERSION: Final = "2025-03-31.basil"
STREAM_MOST: Final = 100
_RENEW_S: Final = 60.0
_JSON: Final = "application/json"


class StripeApi:
    """One account's meter events."""

    def __init__(self, options: StripeOptions) -> None:
        self._options = options
        self.most = STREAM_MOST if options.stream else 1
        self.is_open = False
        self._caller = Caller(timeout_ms=options.timeout_ms, concurrent=options.concurrent)
        self._token = ""
        self._token_until = 0.0

    async def open(self) -> None:
        """Check the key and, if it may read them, the meters. Raises SinkUnavailable."""
        await self._caller.open()
        self._token = ""
        if self._options.stream:
            await self._session_token()
        else:
            await self._check_meters()
        self.is_open = True

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        self.is_open = False
        await self._caller.close()

    async def send(self, events: Sequence[MeterEvent]) -> dict[str, str]:
        """Send at most `most` events: identifier → why it was refused, "" if it is taken.

        Raises SinkUnavailable.
        """
        if self._options.stream:
            return await self._stream(events)
        return {event.identifier: await self._post(event) for event in events}

    async def _check_meters(self) -> None:
        url = f"{self._options.url}/v1/billing/meters?status=active&limit=100"
        response = await self._caller.probe("GET", url, self._headers(self._options.key))
        if not response.is_success:
            return
        found = orjson.loads(response.content)
        names = {meter["event_name"] for meter in found["data"]}
        missing = sorted(set(self._options.meters.values()) - names)
        if missing and not found.get("has_more"):
            raise SinkUnavailable(f"Stripe has no active meter {', '.join(missing)}")

    async def _post(self, event: MeterEvent) -> str:
        form = {
            "event_name": event.meter,
            "identifier": event.identifier,
            "timestamp": event.at_ms // 1000,
            "payload[stripe_customer_id]": event.customer,
            "payload[value]": event.value,
        }
        headers = self._headers(self._options.key, "application/x-www-form-urlencoded")
        url = f"{self._options.url}/v1/billing/meter_events"
        response = await self._caller.post(url, urlencode(form).encode(), headers)
        return _refusal(response)

    async def _stream(self, events: Sequence[MeterEvent]) -> dict[str, str]:
        body = {"events": [_streamed(event) for event in events]}
        headers = self._headers(await self._session_token(), _JSON)
        url = f"{self._options.stream_url}/v2/billing/meter_event_stream"
        try:
            response = await self._caller.post(url, orjson.dumps(body), headers)
        except SinkUnavailable:
            self._token = ""  # it may be the token that was refused: the next attempt has a new one
            raise
        reason = _refusal(response)
        if reason and len(events) > 1:  # which one is not said
            half = len(events) // 2
            return await self._stream(events[:half]) | await self._stream(events[half:])
        return {event.identifier: reason for event in events}

    async def _session_token(self) -> str:
        if not self._token or time.time() > self._token_until - _RENEW_S:
            url = f"{self._options.url}/v2/billing/meter_event_session"
            headers = self._headers(self._options.key, _JSON)
            response = await self._caller.post(url, b"{}", headers)
            if not response.is_success:
                raise SinkUnavailable(
                    f"no session for the meter event stream: {_refusal(response)}"
                )
            session = orjson.loads(response.content)
            self._token = session["authentication_token"]
            self._token_until = dt.datetime.fromisoformat(session["expires_at"]).timestamp()
        return self._token

    def _headers(self, token: str, content_type: str = _JSON) -> Mapping[str, str]:
        return {
            "authorization": f"Bearer {token}",
            "stripe-version": API_VERSION,
            "content-type": content_type,
        }


def _streamed(event: MeterEvent) -> dict[str, Any]:
    moment = dt.datetime.fromtimestamp(event.at_ms / 1000, dt.UTC)
    return {
        "event_name": event.meter,
        "identifier": event.identifier,
        "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "payload": {"stripe_customer_id": event.customer, "value": str(event.value)},
    }


def _refusal(response: httpx.Response) -> str:
    """Why Stripe has not taken it; "" if it has, now or before."""
    if response.is_success:
        return ""
    try:
        error = orjson.loads(response.content)["error"]
        message, code = str(error.get("message", "")), error.get("code")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return f"answered {response.status_code}"
    if code == "duplicate_meter_event" or "already exists with identifier" in message:
        return ""
    if response.status_code == 409:  # another call with it is under way
        raise SinkUnavailable(f"answered 409: {message[:200]}")
    return f"answered {response.status_code}: {message[:300]}"
