"""Structured logs: JSON lines, or pretty ones on a terminal, and one line per request.

Invariants: no body, key, query string or text of a foreign exception is ever logged, for any of
them may carry a prompt or a secret. Failures are logged by type and place (`failure`).

The line of a request costs the event loop an append; a thread renders and writes a batch of
them some milliseconds later.
"""

import asyncio
import contextlib
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from gateway.telemetry.metrics import Counter

Style = Literal["json", "pretty"]

_FLUSH_AFTER_S: Final = 0.05
_MOST_WAITING: Final = 20_000
_OWN_CODE: Final = str(Path(__file__).parents[1]) + os.sep


def configure_logs(process: str, *, style: Style | None = None, level: str = "info") -> None:
    """Set up logging for this process: structlog, and the standard library's records through it.

    process: what this process is, stamped on every line: "supervisor", "worker-0", …
    style:   None picks pretty when stderr is a terminal
    """
    chosen = style or ("pretty" if sys.stderr.isatty() else "json")
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _stamp(process),
        structlog.processors.add_log_level,
        _replace_exception,
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, _renderer(chosen)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(cast(BinaryIO, _Unfailing(sys.stderr.buffer))),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ForwardHandler()]
    root.setLevel(max(number, logging.WARNING))


def failure(error: BaseException) -> dict[str, str]:
    """Return what a log may contain of an exception: its type, its cause's type, and the place in
    our code."""
    said = {"error": type(error).__name__}
    if error.__cause__ is not None:
        said["cause"] = type(error.__cause__).__name__
    place = None
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if place is None or code.co_filename.startswith(_OWN_CODE):
            name = code.co_filename.removeprefix(_OWN_CODE)
            place = f"{name if name != code.co_filename else Path(name).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    if place is not None:
        said["place"] = place
    return said


def log_loop_failures(loop: asyncio.AbstractEventLoop) -> None:
    """Log exceptions that no task caught by our rules, instead of asyncio's full traceback."""
    log = structlog.get_logger("asyncio")

    def handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        log.error("uncaught", **(failure(error) if error else {"what": context.get("message")}))

    loop.set_exception_handler(handler)


class RequestLog:
    """One line per request, rendered and written in a separate thread.

    When the reader of the log is so slow that more than 20,000 lines wait, further lines are
    dropped and counted: a request never waits for its log line.
    """

    def __init__(self, process: str, dropped: Counter, *, style: Style | None = None) -> None:
        self._pretty = (style or ("pretty" if sys.stderr.isatty() else "json")) == "pretty"
        self._head = b'"level":"info","process":%b,' % orjson.dumps(process)
        self._dropped = dropped
        self._waiting: list[dict[str, Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "request-log")

    def note(self, line: dict[str, Any]) -> None:
        """Queue a request's fields; `at_ms` (Unix ms) is when it ended. The caller must not reuse
        the dict."""
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped.inc()
            return
        self._waiting.append(line)
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_AFTER_S, self._flush)

    async def close(self) -> None:
        """Write the waiting lines, then end the thread."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self._write(self._waiting)
        self._waiting = []
        self._thread.shutdown()

    def _flush(self) -> None:
        self._timer = None
        lines, self._waiting = self._waiting, []
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._thread, self._write, lines)
        self._writing.add_done_callback(self._written)

    def _written(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        if writing.cancelled() or writing.exception() is not None:
            self._dropped.inc()
        if self._waiting and not self._closed and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_AFTER_S, self._flush)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if lines:
            render = self._pretty_line if self._pretty else self._json_line
            data = memoryview(b"".join([render(line) for line in lines]))
            while data:  # a pipe may take less than all of it
                data = data[os.write(2, data) :]

    def _json_line(self, line: dict[str, Any]) -> bytes:
        at = _iso(line.pop("at_ms"))
        rest = orjson.dumps({"event": "request", **line}, default=str)[1:]
        return b'{"at":"%b",%b%b\n' % (at.encode(), self._head, rest)

    def _pretty_line(self, line: dict[str, Any]) -> bytes:
        moment = _iso(line.pop("at_ms"))[11:23]
        return f"{moment} {' '.join(f'{k}={v}' for k, v in line.items())}\n".encode()


class _Unfailing:
    """A log that cannot be written (its reader is gone, its disk is full) must never fail a
    request, least of all the response that reports an error."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.write(data)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()


class _ForwardHandler(logging.Handler):
    """Pass on log records of libraries, without their arguments, which may contain anything."""

    def emit(self, record: logging.LogRecord) -> None:
        said = failure(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {}
        log = structlog.get_logger(record.name)
        log.log(
            record.levelno,
            "library",
            logger=record.name,
            said=str(record.msg).partition("\n")[0],
            **said,
        )


def _stamp(process: str) -> structlog.typing.Processor:
    def stamp(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
        line["at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        line["process"] = process
        return line

    return stamp


def _replace_exception(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    info = line.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        line.update(failure(error))
    return line


def _renderer(style: Style) -> structlog.typing.Processor:
    if style == "json":
        return structlog.processors.JSONRenderer(serializer=_json)
    pretty = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), timestamp_key="at", pad_event_to=0
    )

    def render(logger: WrappedLogger, name: str, line: EventDict) -> bytes:
        line["at"] = line["at"][11:23]
        return pretty(logger, name, line).encode()

    return render


def _json(line: EventDict, **_: Any) -> bytes:
    return orjson.dumps(line, default=str)


def _iso(at_ms: int) -> str:
    second, ms = divmod(at_ms, 1000)
    return f"{_second(second)}.{ms:03d}+00:00"


@lru_cache(2)
def _second(at_s: int) -> str:
    """Format a second once: lines of the same second share it."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
