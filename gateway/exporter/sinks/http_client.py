"""Calls to a receiver over HTTP: what its answers mean to the exporter.

Invariants: no message has a key or a URL in it. While the receiver has asked for a pause (Retry-After), nothing
is sent to it.
"""

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from gateway.exporter.sink import SinkUnavailable

CONTENT_STATUSES: Final = frozenset({400, 402, 409, 413, 422})
"""Answers about what was sent; all other errors are about the receiver, the way to it, or the key."""

_PAUSE_MOST_S: Final = 3600.0


class Caller:
    """A pool of connections to one receiver, `open` until `close`."""

    def __init__(self, *, timeout_ms: int, concurrent: int) -> None:
        self._timeout = timeout_ms / 1000
        self._concurrent = concurrent
        self._slots = asyncio.Semaphore(concurrent)
        self._client: httpx.AsyncClient | None = None
        self._not_before = 0.0

    async def open(self) -> None:
        """Start with new connections."""
        await self.close()
        limits = httpx.Limits(max_connections=self._concurrent)
        self._client = httpx.AsyncClient(timeout=self._timeout, limits=limits)

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def probe(self, method: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
        """Ask the receiver for something harmless.

        Raises SinkUnavailable if it cannot be reached, is overloaded or refuses the key. A key without the
        right to read may still be good for sending, so a 403 is returned as every other answer.
        """
        response = await self._request(method, url, headers=headers)
        if response.status_code in (401, 429, 502, 503, 504):
            raise self._unavailable(response)
        return response

    async def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """Send a body; the answer is a 2xx or one of CONTENT_STATUSES. Raises SinkUnavailable."""
        async with self._slots:
            response = await self._request("POST", url, content=content, headers=headers)
        if response.is_success or response.status_code in CONTENT_STATUSES:
            return response
        raise self._unavailable(response)

    async def _request(self, method: str, url: str, **more: Any) -> httpx.Response:
        if self._client is None:
            raise SinkUnavailable("the sink is not open")
        pause_s = self._not_before - time.monotonic()
        if pause_s > 0:
            raise SinkUnavailable(f"the receiver asked for a pause: {pause_s:.0f} s left")
        try:
            return await self._client.request(method, url, **more)
        except httpx.TimeoutException as error:
            raise SinkUnavailable(f"no answer within {self._timeout:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # its text may have the URL in it
            raise SinkUnavailable(f"cannot be reached ({type(error).__name__})") from error

    def _unavailable(self, response: httpx.Response) -> SinkUnavailable:
        status = response.status_code
        self._not_before = time.monotonic() + _pause_s(response.headers.get("retry-after", ""))
        if status == 401:
            return SinkUnavailable("answered 401: the key is wrong or was revoked")
        if status == 403:
            return SinkUnavailable("answered 403: the key lacks the right to send usage")
        if status in (404, 405) or 300 <= status < 400:
            return SinkUnavailable(f"answered {status}: check `url`")
        return SinkUnavailable(f"answered {status}")


def _pause_s(retry_after: str) -> float:
    """Seconds of a Retry-After header (RFC 9110, section 10.2.3); 0 if it is absent or unreadable."""
    if retry_after.isdecimal():
        return min(float(retry_after), _PAUSE_MOST_S)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    if until.tzinfo is None:
        return 0.0
    return min(max((until - dt.datetime.now(dt.UTC)).total_seconds(), 0.0), _PAUSE_MOST_S)


async def gathered(calls: Iterable[Awaitable[None]]) -> None:
    """Let all of them end, then raise what the first of them raised: what has arrived is known then."""
    for error in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(error, BaseException):
            raise error
