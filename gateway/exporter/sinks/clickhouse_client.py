"""ClickHouse's HTTP interface for the exporter: one statement at a time over aiohttp."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import aiohttp
import orjson

from gateway.exporter.sinks.clickhouse_protocol import (
    IDLE_S,
    PROBE,
    Server,
    headers,
    lines,
    refused,
    tls,
)
from gateway.exporter.sinks.options import ClickHouseOptions

_SLICE: Final = 1 << 18


class Unreachable(Exception):
    """No answer to a statement: it may have been carried out."""


class ClickHouseClient:
    """Statements to one database. Every method raises Refused and Unreachable."""

    def __init__(self, options: ClickHouseOptions) -> None:
        self._options = options
        self._server: Server | None = None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(keepalive_timeout=IDLE_S, ssl=tls(options)),
            timeout=aiohttp.ClientTimeout(total=options.timeout_ms / 1000),
            headers=headers(options),
        )

    @property
    def server(self) -> Server:
        """What it is, once `connect` has asked."""
        assert self._server is not None, "not connected"
        return self._server

    async def connect(self) -> Server:
        """Ask what the server is."""
        body = await self._send({"default_format": "JSONEachRow"}, PROBE.encode())
        self._server = Server.of(lines(body))
        return self._server

    async def rows(
        self, statement: str, *, spills: bool = False, outside: bool = False
    ) -> list[dict[str, Any]]:
        """Carry out a SELECT. spills: large groups and sorts go to the server's disk; outside: of the
        database, which may not exist yet"""
        settings = {**self.server.select_settings(spills=spills), **self._where(outside)}
        return lines(await self._send(settings, f"{statement} FORMAT JSONEachRow".encode()))

    async def execute(self, statement: str, *, outside: bool = False) -> None:
        """Carry out a statement that has no answer."""
        settings = {**self.server.insert_settings(), **self._where(outside)}
        await self._send(settings, statement.encode())

    async def insert(self, table: str, values: Sequence[Mapping[str, object]]) -> None:
        """Insert a few rows."""
        if values:
            body = orjson.dumps(values)[1:-1]
            await self.insert_body(f"{table} ({', '.join(values[0])}) FORMAT JSONEachRow", body)

    async def insert_body(self, into: str, body: bytes, token: str | None = None) -> None:
        """Insert what is encoded already. into: table, columns and format; token: of repeats of this
        insert"""
        settings = {**self.server.insert_settings(token), **self._where()}
        await self._send({**settings, "query": f"INSERT INTO {into}"}, body)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._session.close()

    def _where(self, outside: bool = False) -> dict[str, str]:
        return {} if outside else {"database": self._options.database}

    async def _send(self, parameters: Mapping[str, str], body: bytes) -> bytes:
        """Send a statement and return its complete answer, so that the status covers everything."""
        try:
            async with self._session.post(
                self._options.url,
                params={"wait_end_of_query": "1", **parameters},
                data=_slices(body),
                headers={"Content-Length": str(len(body))},
                allow_redirects=False,
            ) as response:
                answer = await response.read()
        except TimeoutError:
            raise Unreachable(f"no answer within {self._options.timeout_ms} ms") from None
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"cannot connect: {error.os_error}") from error
        except (aiohttp.ClientError, OSError) as error:
            cause = (
                error.__cause__ or error
            )  # aiohttp's own text has the address with the statement in it
            raise Unreachable(str(cause) or type(cause).__name__) from error
        if response.status != 200:
            quote = "query" not in parameters
            raise refused(self._options, answer.decode(errors="replace"), quote=quote)
        return answer


async def _slices(body: bytes) -> AsyncIterator[memoryview]:
    """Parts of a large body, without copying it."""
    view = memoryview(body)
    for start in range(0, len(body), _SLICE):
        yield view[start : start + _SLICE]
