"""NATS JetStream: every event is one message of a stream, kept once.

The stream drops a message whose `Nats-Msg-Id` it has taken within its duplicate window, and says so in its
acknowledgement. Events older than `max_replay_age_ms`, which is shorter, are not sent. All acknowledgements
arrive at one subscription, at a subject that ends in the message's number: a future for each message took
twice the time.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final
from urllib.parse import quote

import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import StreamConfig, StreamInfo
from nats.js.errors import NotFoundError

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.sink import Batch, Failure, Sink, SinkUnavailable, Written
from gateway.exporter.sinks.event_json import event_json
from gateway.exporter.sinks.options import NatsOptions, TlsOptions

_HEADER_BYTES: Final = 32
"""Of a message's header without the id: the server's limit is for header and payload together."""
_MARGIN_MS: Final = 60_000
"""How much longer than `max_replay_age_ms` the stream must remember: time in flight, difference of clocks."""
_EXCEEDS_MAXIMUM: Final = 10054
"""Error of a message that is too large for the stream (nats-server, `errors.json`)."""
_NO_RESPONDERS: Final = "503"
_CLOSE_S: Final = 2.0
_PENDING_BYTES: Final = 64 << 20
"""More than a usual window: the client that waits for room does not notice that the connection is lost."""
_YIELD: Final = 512
"""Messages after which the client may send them and read acknowledgements."""


class NatsSink(Sink):
    """Publishes to one stream over one connection. Reconnecting is the pump's."""

    name: ClassVar[str] = "nats"

    def __init__(self, options: NatsOptions) -> None:
        self.max_replay_age_ms = options.max_replay_age_ms
        self._options = options
        self._connection: Client | None = None
        self._inbox = ""
        """Subject before the numbers of the messages, with its dot."""
        self._subject = lru_cache(16_384)(self._subject_of)
        self._trouble: Exception | None = None
        """What the client last complained about."""
        self._missing = 0
        """Acknowledgements that have not arrived, of what was published."""
        self._duplicates = 0
        self._refused: dict[int, tuple[int, str]] = {}
        """Number of a message → error's number and text."""
        self._answered = asyncio.Event()
        """All acknowledgements have arrived, or none will."""

    def __repr__(self) -> str:
        return f"NatsSink({self._options!r}, {'open' if self._connection else 'closed'})"

    async def open(self) -> Mapping[int, Place]:
        """Connect, and check the stream. Keeps no cursors."""
        await self.close()
        try:
            connection = await self._connect()
        except (Error, OSError, TimeoutError) as error:
            raise SinkUnavailable(_said(self._trouble or error)) from error
        self._trouble = None  # of a server that could not be reached, before this one
        try:
            self._check(await self._stream(connection))
            inbox = connection.new_inbox()
            await connection.subscribe(f"{inbox}.*", cb=self._on_answer)
        except (Error, OSError, TimeoutError) as error:
            await _closed(connection)
            raise SinkUnavailable(_said(self._trouble or error)) from error
        except SinkUnavailable:
            await _closed(connection)
            raise
        self._inbox = f"{inbox}."
        self._connection = connection
        return {}

    async def write(self, batch: Batch) -> Written:
        """Publish the rows, and wait until the stream has acknowledged each of them."""
        rows, failed = self._young_enough(batch.rows)
        self._duplicates = 0
        for first in range(0, len(rows), self._options.window):
            failed += await self._publish(rows[first : first + self._options.window])
        stored = len(batch.rows) - self._duplicates - len(failed)
        return Written(stored, self._duplicates, failed)

    async def close(self) -> None:
        """Disconnect. Nothing waits in the connection: `write` leaves it empty."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _closed(connection)

    async def _connect(self) -> Client:
        """Connect to the first server that can be reached, in random order."""
        options = self._options
        return await nats.connect(
            list(options.servers),
            name="creditgate",
            error_cb=self._on_error,
            closed_cb=self._on_closed,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # per server, while connecting; 0 would be without end
            reconnect_time_wait=0,
            connect_timeout=max(1, int(options.timeout_s)),
            pending_size=_PENDING_BYTES,
            flush_timeout=options.timeout_s,
            user=options.username,
            password=options.password,
            token=options.token,
            **({"tls": _context(options.tls)} if options.tls else {}),
        )

    async def _stream(self, connection: Client) -> StreamInfo:
        """The stream; made if it does not exist and that is configured."""
        options = self._options
        jetstream = connection.jetstream(timeout=options.timeout_s)
        try:
            return await jetstream.stream_info(options.stream)
        except NotFoundError:
            if not options.create_stream:
                raise SinkUnavailable(
                    f"there is no stream {options.stream!r}; create it, or set `create_stream: true`"
                ) from None
        return await jetstream.add_stream(
            StreamConfig(
                name=options.stream,
                subjects=[_wildcard(options.subject)],
                duplicate_window=(options.max_replay_age_ms + _MARGIN_MS) / 1000,
            )
        )

    def _check(self, found: StreamInfo) -> None:
        """Raises SinkUnavailable if the stream does not take the subjects, or forgets too early."""
        options, config = self._options, found.config
        example = self._subject("settle", "customer")
        if not any(_matches(subject, example) for subject in config.subjects or ()):
            raise SinkUnavailable(
                f"stream {options.stream!r} does not take {example!r}; its subjects are "
                f"{', '.join(config.subjects or ())}"
            )
        window_ms = (config.duplicate_window or 0) * 1000
        needed_ms = options.max_replay_age_ms + _MARGIN_MS
        if window_ms < needed_ms:
            raise SinkUnavailable(
                f"stream {options.stream!r} recognises repeats for {window_ms:.0f} ms, but "
                f"`max_replay_age_ms` is {options.max_replay_age_ms}: lower it by a minute below the "
                f"stream's window, or `nats stream edit {options.stream} "
                f"--dupe-window={-(-needed_ms // 1000)}s`"
            )

    def _young_enough(self, rows: Sequence[EventRow]) -> tuple[Sequence[EventRow], list[Failure]]:
        """Leave out rows that have become too old since the batch was made, during an outage."""
        oldest_ms = time.time() * 1000 - self._options.max_replay_age_ms
        if not rows or min(row.occurred_at_ms for row in rows) >= oldest_ms:
            return rows, []
        old = [
            Failure(row, "older than the sink's max_replay_age")
            for row in rows
            if row.occurred_at_ms < oldest_ms
        ]
        return [row for row in rows if row.occurred_at_ms >= oldest_ms], old

    async def _publish(self, rows: Sequence[EventRow]) -> list[Failure]:
        """Publish rows of one window and return what the stream refused. Raises SinkUnavailable."""
        connection = self._connection
        if connection is None:
            raise SinkUnavailable("not connected")
        publish, subject, inbox = connection.publish, self._subject, self._inbox
        room = connection.max_payload - _HEADER_BYTES
        failed: list[Failure] = []
        self._refused = {}
        self._missing = len(rows)
        self._answered.clear()
        try:
            for number, row in enumerate(rows):
                payload, event_id = event_json(row), row.event_id
                if len(payload) + len(event_id.encode()) > room:
                    failed.append(Failure(row, f"larger than the server's {room} bytes"))
                    self._missing -= 1
                    continue
                await publish(
                    subject(row.kind, row.customer_id),
                    payload,
                    f"{inbox}{number}",
                    {"Nats-Msg-Id": event_id},
                )
                if number % _YIELD == 0:
                    await asyncio.sleep(0)
            await self._all_answered()
        except (Error, OSError, SinkUnavailable) as error:
            await self.close()  # what still arrives belongs to no message any more
            raise SinkUnavailable(_said(self._trouble or error)) from error
        for number, (code, said) in self._refused.items():
            if code != _EXCEEDS_MAXIMUM:
                raise SinkUnavailable(said)
            failed.append(Failure(rows[number], said))
        return failed

    async def _all_answered(self) -> None:
        """Wait for the acknowledgements, as long as some arrive. Raises SinkUnavailable."""
        while self._missing:
            before = self._missing
            try:
                await asyncio.wait_for(self._answered.wait(), self._options.timeout_s)
            except TimeoutError:
                if self._missing == before:
                    raise SinkUnavailable(
                        f"no acknowledgement within {self._options.timeout_s:g} s"
                    ) from None
                continue
            if self._missing:
                raise SinkUnavailable("the connection was lost")

    async def _on_answer(self, message: Msg) -> None:
        """One message's acknowledgement."""
        try:
            answer = orjson.loads(message.data)
        except ValueError:
            answer = {}
        if answer.get("stream") == self._options.stream and "error" not in answer:
            if answer.get("duplicate"):
                self._duplicates += 1
        else:
            number = int(message.subject[len(self._inbox) :])
            self._refused[number] = self._refusal(message, answer)
        self._missing -= 1
        if self._missing == 0:
            self._answered.set()

    def _refusal(self, message: Msg, answer: dict[str, Any]) -> tuple[int, str]:
        if "error" in answer:
            error = answer["error"]
            return error.get("err_code", 0), error.get("description", "refused")
        if (message.headers or {}).get("Status") == _NO_RESPONDERS:
            return 0, f"no stream takes the subject {self._options.subject!r}"
        return 0, f"stream {answer.get('stream')!r} took the subject, not {self._options.stream!r}"

    async def _on_error(self, error: Exception) -> None:
        self._trouble = error
        self._answered.set()

    async def _on_closed(self) -> None:
        self._answered.set()

    def _subject_of(self, kind: str, customer_id: str) -> str:
        """A customer's id is one token: what would end it is percent-encoded."""
        token = quote(customer_id, safe="").replace(".", "%2E")
        return self._options.subject.format(kind=kind, customer_id=token)


def _wildcard(template: str) -> str:
    """The subjects of a template, as a stream takes them."""
    return ".".join("*" if "{" in token else token for token in template.split("."))


def _matches(pattern: str, subject: str) -> bool:
    """Whether a stream with this subject takes that one."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, given = wanted[:-1], given[: len(wanted) - 1] if len(given) >= len(wanted) else []
    return len(wanted) == len(given) and all(
        one in ("*", other) for one, other in zip(wanted, given, strict=True)
    )


def _context(tls: TlsOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.client_cert is not None:
        context.load_cert_chain(tls.client_cert, tls.client_key)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _closed(connection: Client) -> None:
    """Close a connection whose server may not read any more."""
    try:
        await asyncio.wait_for(connection.close(), _CLOSE_S)
    except (Error, OSError, TimeoutError):
        return


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
