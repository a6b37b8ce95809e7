"""ClickHouse's HTTP interface for readers: synchronous, over httpx, from any thread."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx
import orjson

from gateway.domain.stores import StoreMissing
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

_LONG_S: Final = 600
"""For questions about everything."""


class ClickHouseReading:
    """Questions to one database, and the one row that operations write. Every method raises StoreMissing."""

    def __init__(self, options: ClickHouseOptions) -> None:
        self._options = options
        self._server: Server | None = None
        self._timeout_s = options.timeout_ms / 1000
        self._client = httpx.Client(
            headers=[(name.encode(), value.encode()) for name, value in headers(options).items()],
            timeout=self._timeout_s,
            verify=tls(options),
            trust_env=False,
            limits=httpx.Limits(keepalive_expiry=IDLE_S),
        )

    @property
    def server(self) -> Server:
        """What it is; asked once."""
        if self._server is None:
            parameters = {"default_format": "JSONEachRow", "wait_end_of_query": "1"}
            with self._answered(parameters, PROBE, self._timeout_s) as answer:
                self._server = Server.of(lines(answer.read()))
        return self._server

    def rows(
        self, statement: str, *, long: bool = False, outside: bool = False
    ) -> list[dict[str, Any]]:
        """Every line of an answer. long: it is about everything; outside: of the database, which may not
        exist"""
        where = {} if outside else {"database": self._options.database}
        parameters = {
            **self.server.select_settings(spills=long),
            **where,
            "wait_end_of_query": "1",
        }
        timeout_s = max(self._timeout_s, _LONG_S) if long else self._timeout_s
        asked = f"{statement} FORMAT JSONEachRow"
        with self._answered(parameters, asked, timeout_s) as answer:
            return lines(answer.read())

    def insert(self, table: str, values: Mapping[str, object]) -> None:
        """Add one row; it is stored when this returns."""
        parameters = {"database": self._options.database}
        body = f"INSERT INTO {table} ({', '.join(values)}) FORMAT JSONEachRow\n"
        statement = body + orjson.dumps(values).decode()
        with self._answered(parameters, statement, self._timeout_s) as answer:
            answer.read()

    def stream(self, statement: str) -> Iterator[dict[str, Any]]:
        """The lines of a long answer as they come."""
        parameters = {
            **self.server.select_settings(spills=True),
            "database": self._options.database,
        }
        asked, rest = f"{statement} FORMAT JSONEachRow", b""
        with self._answered(parameters, asked, max(self._timeout_s, _LONG_S)) as answer:
            for part in answer.iter_bytes():
                *complete, rest = (rest + part).split(b"\n")
                for line in complete:
                    yield self._read(line)
            if rest:
                self._read(rest)

    def _read(self, line: bytes) -> dict[str, Any]:
        """A line of a stream; what fails in the middle of it ends it with the reason instead."""
        if not line.startswith(b"{"):
            reason = refused(self._options, line.decode(errors="replace"), quote=True)
            raise StoreMissing(f"{self._options.url}: {reason}")
        found: dict[str, Any] = orjson.loads(line)
        return found

    @contextmanager
    def _answered(
        self, parameters: dict[str, str], statement: str, timeout_s: float
    ) -> Iterator[httpx.Response]:
        where = self._options.url
        try:
            with self._client.stream(
                "POST", where, params=parameters, content=statement.encode(), timeout=timeout_s
            ) as answer:
                if answer.status_code != 200:
                    text = answer.read().decode(errors="replace")
                    raise StoreMissing(f"{where}: {refused(self._options, text, quote=True)}")
                yield answer
        except httpx.TimeoutException as error:
            raise StoreMissing(f"{where}: no answer within {timeout_s:.0f} s") from error
        except httpx.HTTPError as error:
            raise StoreMissing(f"{where}: {error or type(error).__name__}") from error

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._client.close()
