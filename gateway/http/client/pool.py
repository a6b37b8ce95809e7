"""The client of one upstream: a pool of connections to one origin.

Invariants:

- A request is written once. Only a connection that is known to be dead before its first byte is
  replaced; what happens after that byte is an error (`sent=True`), never a second attempt. When
  the upstream closes an idle connection at the very moment of the request, that is such an error.
- No redirects, no cookies, no environment: the origin is what the configuration says.

Which connection a request gets is `supply.py`.
"""

import re
import ssl
from asyncio import CancelledError
from collections.abc import Callable
from typing import Final

from gateway.http.breaker import Breaker, BreakerLimits
from gateway.http.client.limits import PoolLimits, UpstreamTimeouts
from gateway.http.client.opening import Origin
from gateway.http.client.response import Response
from gateway.http.client.supply import ConnectionSupply
from gateway.http.client.target import join_path, join_query
from gateway.http.client.writing import WHOLE_WRITE_BYTES
from gateway.http.upstream_interface import (
    CancelledUnsent,
    UpstreamResponse,
)

_STARTS_MOST: Final = 512
_TARGET: Final = re.compile(r"/[\x21-\x7e]*", re.ASCII)
_TOKEN: Final = re.compile(r"[A-Z]+", re.ASCII)
_WITH_LENGTH: Final = frozenset({"POST", "PUT", "PATCH"})


class UpstreamPool:
    """An `Upstream` for one base URL, such as "https://api.example.com" or "http://10.0.0.7:8000/api".

    tls:         context for https; None makes one with the system's CAs
    server_name: name for SNI and the certificate, when it is not the URL's host
    query:       parameters added to each request's, encoded
    inspect:     called with each response before the caller sees it; may set its `transform`, replace
                 its `values`, raise UpstreamError
    breaker:     limits of its circuit breaker, which this class only carries

    Raises ValueError when the URL is not an http(s) origin with an optional path.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        timeouts: UpstreamTimeouts | None = None,
        limits: PoolLimits | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        query: str = "",
        inspect: Callable[[UpstreamResponse], None] | None = None,
        breaker: BreakerLimits | None = None,
    ) -> None:
        self.name = name
        self.breaker = Breaker(breaker)
        self._origin = Origin.from_url(base_url, tls, server_name)
        self._query = query
        self._inspect = inspect
        self._starts: dict[tuple[str, str], bytes] = {}
        self._supply = ConnectionSupply(
            name, self._origin, timeouts or UpstreamTimeouts(), limits or PoolLimits()
        )

    def __repr__(self) -> str:
        return f"<UpstreamPool {self.name}: {self._supply!r}>"

    @property
    def open_count(self) -> int:
        """Connections that are open now."""
        return len(self._supply.connections)

    @property
    def idle_count(self) -> int:
        """Open connections without a request."""
        return len(self._supply.idle)

    @property
    def waiting_count(self) -> int:
        """Callers that wait for a connection."""
        return self._supply.queue.count

    async def send(
        self, method: str, target: str, fields: bytes, body: bytes, *, owner: str = ""
    ) -> Response:
        """Send a request once, wait for the response's head. See `Upstream.send`.

        target: origin-form with its query; the base URL's path is put before it (`join_path`)

        Raises UpstreamError, ValueError (a head that could be read as something else).
        """
        start = self._starts.get((method, target)) or self._start_of(method, target)
        if fields and (fields[-2:] != b"\r\n" or b"\r\n\r\n" in fields):
            raise ValueError("the fields are not encoded lines")
        size = len(body)
        large = size > WHOLE_WRITE_BYTES
        if size or method in _WITH_LENGTH:
            start = b"%b%bcontent-length: %d\r\n\r\n%b" % (
                start,
                fields,
                size,
                b"" if large else body,
            )
        else:
            start = b"%b%b\r\n" % (start, fields)
        connection = self._supply.take(owner)
        if connection is None:
            try:
                connection = await self._supply.acquire(owner)
            except CancelledError:
                raise CancelledUnsent from None
        request = connection.start(start, bodyless=method == "HEAD")
        try:
            if large:
                await connection.write_body(body)
            response = await request
        except CancelledError:
            connection.abandon(request)
            raise
        # By now the connection may already carry another request: only the response is ours.
        if self._inspect is not None:
            try:
                self._inspect(response)
            except BaseException:
                response.close()
                raise
        return response

    def _start_of(self, method: str, target: str) -> bytes:
        """The request line and Host."""
        if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
            raise ValueError("not a method and a target in origin-form")
        joined = join_query(join_path(self._origin.path, target), self._query)
        start = f"{method} {joined} HTTP/1.1\r\nhost: {self._origin.authority}\r\n".encode()
        if "?" not in target:  # a query is seldom sent again
            if len(self._starts) >= _STARTS_MOST:
                self._starts.clear()
            self._starts[method, target] = start
        return start

    async def close(self) -> None:
        """Close every connection; requests in progress fail. Idempotent."""
        await self._supply.close()
