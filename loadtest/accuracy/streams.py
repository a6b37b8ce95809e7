"""The callers of one tenant: so many streams at once until the budget is exhausted.

Invariants: after a transient refusal a caller sends the same request again when `Retry-After` says; a
terminal refusal ends it; whatever else goes wrong is counted and sent again. Where a refusal says neither
when to come back nor that it is final, it is final once no token has reached any caller of the tenant
between two of them: nothing runs any more whose end could free credit. A stream counts as cut when it
brought fewer tokens than the answer has: an error, an early end, a lower maximum.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import httptools
import orjson

from loadtest.accuracy.contenders import Replicas
from loadtest.accuracy.scenario import Scenario

TOKEN: Final = b'"delta":{"content":"'
"""Begins the text of a frame of the simulated provider: one token each."""

RETRY_S: Final = 1.0
MOST_FAILURES: Final = 100
_KEPT_ERROR_BYTES: Final = 2048

TERMINAL: Final = frozenset({(402, "credit_balance_exhausted"), (429, "budget_exceeded")})
"""Refusals that are final: ours, and hardcap's."""


class LoadFailed(Exception):
    """The load cannot go on: neither answers nor refusals come."""


@dataclass(slots=True)
class TenantLoad:
    """What a tenant's callers saw. Times in seconds since the load began.

    delivered:   output tokens that reached the callers
    answers:     admitted streams
    cut:         of them, those that brought fewer tokens than their answer has
    lost:        tokens that they lacked
    refusals:    refused requests by their error's type and code
    failures:    answers that were neither, and broken connections before the first token
    ended_s:     when the last stream ended
    refused_s:   when the first terminal refusal came
    """

    delivered: int = 0
    answers: int = 0
    cut: int = 0
    lost: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    terminal: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    ended_s: float = 0.0
    refused_s: float = 0.0


@dataclass(slots=True)
class _Answer:
    status: int = 0
    tokens: int = 0
    retry_after: bytes = b""
    whole: bool = False
    error: bytes = b""


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self._on_token = on_token
        self._parser = httptools.HttpResponseParser(self)
        self._answer = _Answer()
        self._ended: asyncio.Future[_Answer] | None = None
        self._tail = b""
        self._whole = False
        self._keep = True
        self.open = True
        self.transport: asyncio.Transport

    async def ask(self, data: bytes) -> _Answer:
        """Send a request and wait for the end of its answer."""
        self._answer = _Answer()
        self._tail = b""
        self._ended = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return await self._ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self.open = False
        self._finish()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()
            return
        if self._whole:
            self._whole = False
            self._answer.whole = True
            if not self._keep:
                self.open = False
                self.transport.close()
            self._finish()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._answer.retry_after = value

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        answer = self._answer
        if answer.status >= 400:
            answer.error = (answer.error + data)[:_KEPT_ERROR_BYTES]
            return
        data = self._tail + data
        tokens = data.count(TOKEN)
        # the tail is shorter than the mark, so that nothing is counted twice
        self._tail = data[1 - len(TOKEN) :]
        if tokens:
            answer.tokens += tokens
            self._on_token(tokens)

    def on_message_complete(self) -> None:
        self._whole = self._answer.status >= 200
        self._keep = self._parser.should_keep_alive()

    def _finish(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(self._answer)


class Callers:
    """The callers of one tenant; `run` them once.

    replicas: to which the callers are assigned in turn
    lengths:  how long the answers of the requests are, in order
    requests: how many to send at most; None until the budget is exhausted
    """

    def __init__(
        self,
        scenario: Scenario,
        tenant: str,
        replicas: Replicas,
        lengths: Iterator[int],
        *,
        callers: int | None = None,
        requests: int | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> None:
        self._scenario = scenario
        self._tenant = tenant
        self._hosts = [
            (parts.hostname or "", parts.port or 80) for parts in map(urlsplit, replicas.urls)
        ]
        self._lengths = lengths
        self._callers = callers or scenario.streams
        self._left = requests
        self._on_token = on_token or (lambda _tokens: None)
        self._request = replicas.request
        self._last_token_s = 0.0
        self._began_s = 0.0
        self._connections: set[_Connection] = set()
        self.load = TenantLoad()

    async def run(self) -> TenantLoad:
        """Send until every caller was refused for good. Raises LoadFailed."""
        self._began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._scenario.timeout_s), asyncio.TaskGroup() as group:
                for number in range(self._callers):
                    group.create_task(self._call(number))
        except TimeoutError:
            raise LoadFailed(
                f"{self._tenant}: not exhausted after {self._scenario.timeout_s:g} s: {self.load}"
            ) from None
        finally:
            for connection in self._connections:
                connection.transport.abort()
        return self.load

    async def _call(self, number: int) -> None:
        load = self.load
        connection = await self._connect(number)
        wanted = self._next()
        refused_s = 0.0
        while wanted:
            if not connection.open:
                self._connections.discard(connection)
                connection = await self._connect(number)
            answer = await connection.ask(self._request(self._scenario, self._tenant, wanted))
            kind, code = _error(answer.error)
            if answer.status == 200:
                self._note(answer, wanted)
                wanted = self._next()
                refused_s = 0.0
            elif self._is_final(answer, kind, code, refused_s):
                load.refusals[_named(kind, code)] += 1
                load.terminal += 1
                load.refused_s = load.refused_s or time.monotonic() - self._began_s
                return
            elif answer.status == 429:
                load.refusals[_named(kind, code)] += 1
                refused_s = refused_s or time.monotonic()
                if self._last_token_s > refused_s:
                    refused_s = time.monotonic()
                await asyncio.sleep(float(answer.retry_after or RETRY_S))
            else:
                load.failures[f"{answer.status} {code or kind}".strip()] += 1
                if load.failures.total() > MOST_FAILURES:
                    raise LoadFailed(f"{self._tenant}: {dict(load.failures)}")
                await asyncio.sleep(RETRY_S)

    def _is_final(self, answer: _Answer, kind: str, code: str, refused_s: float) -> bool:
        """Whether this refusal is for good. refused_s: when the same request was refused before; 0 is never"""
        if {(answer.status, code), (answer.status, kind)} & TERMINAL:
            return True
        silent = answer.status == 429 and not answer.retry_after
        return silent and bool(refused_s) and self._last_token_s < refused_s

    def _arrived(self, tokens: int) -> None:
        self._last_token_s = time.monotonic()
        self._on_token(tokens)

    def _next(self) -> int:
        """The length of the next request's answer; 0 when all are sent."""
        if self._left is not None:
            if self._left == 0:
                return 0
            self._left -= 1
        return next(self._lengths)

    def _note(self, answer: _Answer, wanted: int) -> None:
        load = self.load
        load.answers += 1
        load.delivered += answer.tokens
        load.ended_s = time.monotonic() - self._began_s
        if answer.tokens < wanted:
            load.cut += 1
            load.lost += wanted - answer.tokens

    async def _connect(self, number: int) -> _Connection:
        host, port = self._hosts[number % len(self._hosts)]
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self._arrived), host, port)
        self._connections.add(connection)
        return connection


def _error(body: bytes) -> tuple[str, str]:
    """Type and code of an error body, "" where it has none."""
    if not body:
        return "", ""
    try:
        error = orjson.loads(body)["error"]
        return str(error.get("type") or ""), str(error.get("code") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "", ""


def _named(kind: str, code: str) -> str:
    return kind if code in ("", kind) else f"{kind}: {code}"
