"""Kafka: every event is one message of a topic, delivered at least once.

librdkafka's idempotent producer does not repeat a message by itself and keeps the order within a
partition. A batch that was interrupted is written again, so a consumer drops repeats by the header
`event_id`. The key is the customer, hashed as Java clients do: a customer's events stay in one
partition, in order.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final, NoReturn, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.sink import Batch, Failure, Sink, SinkUnavailable, Written
from gateway.exporter.sinks.event_json import event_json
from gateway.exporter.sinks.options import KafkaOptions

T = TypeVar("T")

_REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.POLICY_VIOLATION,
    }
)
"""The message is at fault. Any other failure is the cluster's and passes."""
_CONNECT_S: Final = 2.0
_CONNECT_ATTEMPTS: Final = 5
_REPORTS_S: Final = 5.0
"""How long librdkafka may take to report what has timed out or was purged."""


class KafkaSink(Sink):
    """Produces to one topic, in a thread that is the only one to use the producer."""

    name: ClassVar[str] = "kafka"

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._producer: Producer | None = None
        self._thread = ThreadPoolExecutor(1, "kafka-producer")
        self._acknowledged = 0
        """Positive delivery reports of what is being written."""
        self._errors: list[tuple[KafkaError, bytes | None]] = []
        """Negative ones, each with the message's value."""
        self._there: set[str] = set()
        """Event ids of an interrupted batch that the brokers have acknowledged."""
        self._trouble = ""
        """What librdkafka last said of the connections."""
        self._denied = False
        """Whether it was that the credentials are wrong."""

    def __repr__(self) -> str:
        return f"KafkaSink({self._options!r}, {'open' if self._producer else 'closed'})"

    async def open(self) -> Mapping[int, Place]:
        """Connect and look up the topic. Keeps no cursors."""
        await self._in_thread(self._open)
        return {}

    async def write(self, batch: Batch) -> Written:
        """Produce the rows and wait until the brokers have acknowledged each of them."""
        return await self._in_thread(lambda: self._write(batch.rows))

    async def close(self) -> None:
        """Drop the producer. Nothing waits in it: `write` leaves it empty."""
        await self._in_thread(self._close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except KafkaException as error:
                reason = self._explained(error.args[0])
            # Outside the handler: a traceback would keep the producer, and end it in another thread.
            raise SinkUnavailable(reason)

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    # In the producer's thread

    def _open(self) -> None:
        self._close()
        self._trouble, self._denied = "", False
        callbacks = {"on_delivery": self._reported, "error_cb": self._noticed}
        producer = Producer({**configuration(self._options), **callbacks})
        topic = self._options.topic
        for attempt in range(_CONNECT_ATTEMPTS):
            try:
                found = producer.list_topics(topic, _CONNECT_S).topics[topic]
                break
            except KafkaException:
                producer.poll(0)  # for the callback, which knows the cause
                if self._denied or attempt + 1 == _CONNECT_ATTEMPTS:
                    raise
        if found.error is not None:
            raise SinkUnavailable(f"topic {topic!r}: {found.error.str()}")
        self._producer = producer

    def _close(self) -> None:
        self._producer = None

    def _reported(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._acknowledged += 1
        else:
            self._errors.append((error, message.value()))

    def _noticed(self, error: KafkaError) -> None:
        self._denied = self._denied or error.code() == KafkaError._AUTHENTICATION
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._trouble:
            self._trouble = error.str()

    def _explained(self, error: KafkaError) -> str:
        said = error.str()
        return f"{said} ({self._trouble})" if self._trouble not in ("", said) else said

    def _write(self, rows: Sequence[EventRow]) -> Written:
        waiting = [row for row in rows if row.event_id not in self._there] if self._there else rows
        refused = self._produce(waiting)
        crowded = [failure.row for failure in refused if failure.retry]
        if crowded:
            # A broker refuses a request of many messages because of one: find out which by asking for each.
            kept = {failure.row.event_id for failure in refused}
            self._there.update(row.event_id for row in waiting if row.event_id not in kept)
            refused = [failure for failure in refused if not failure.retry]
            for row in crowded:
                refused += self._produce([row])
        self._there.clear()
        return Written(len(rows) - len(refused), 0, refused)

    def _produce(self, rows: Sequence[EventRow]) -> list[Failure]:
        """Deliver rows, and return what was refused; `retry` if perhaps only for its company.

        Raises SinkUnavailable or KafkaException, having noted what was delivered.
        """
        if self._producer is None:
            raise SinkUnavailable("not connected")
        produce, topic = self._producer.produce, self._options.topic
        sent: list[EventRow] = []
        refused: list[Failure] = []
        self._acknowledged, self._errors = 0, []
        for row in rows:
            headers: list[Any] = [("event_id", row.event_id)]
            value = event_json(row)
            try:
                while True:
                    try:
                        produce(topic, value, row.customer_id, headers=headers)
                        break
                    except BufferError:  # full; a message leaves it at the latest when it times out
                        self._producer.poll(0.1)
                        if lasting := self._lasting():
                            raise KafkaException(lasting) from None
            except KafkaException as error:
                if error.args[0].code() not in _REFUSED:
                    self._give_up(sent, error.args[0])
                refused.append(Failure(row, error.args[0].str()))
            else:
                sent.append(row)
        left = _reports(self._producer, self._options.timeout_s + _REPORTS_S)
        if self._acknowledged == len(sent):
            return refused
        lasting = self._lasting()
        if left or lasting:
            self._give_up(sent, lasting or KafkaError(KafkaError._TIMED_OUT))
        assert self._acknowledged + len(self._errors) == len(sent), "every message is reported once"
        errors = {value: error for error, value in self._errors}
        for row in sent:
            refusal = errors.get(event_json(row))
            if refusal is not None:
                refused.append(Failure(row, refusal.str(), retry=len(sent) > 1))
        return refused

    def _lasting(self) -> KafkaError | None:
        """The first reported error that is the cluster's."""
        return next((e for e, _ in self._errors if e.code() not in _REFUSED), None)

    def _give_up(self, sent: Sequence[EventRow], error: KafkaError) -> NoReturn:
        """Take back what is not delivered, note what is, and leave the producer. Raises KafkaException."""
        producer = self._producer
        assert producer is not None
        self._producer = None
        producer.purge()
        if _reports(producer, _REPORTS_S) == 0:
            undelivered = {value for _, value in self._errors}
            self._there.update(r.event_id for r in sent if event_json(r) not in undelivered)
        raise KafkaException(error)


def _reports(producer: Producer, within_s: float) -> int:
    """Wait for the delivery reports of all messages; return how many are missing at the end.

    Not by `flush`: while a broker does not answer, that keeps a processor core busy.
    """
    end = time.monotonic() + within_s
    while (left := end - time.monotonic()) > 0 and len(producer):
        producer.poll(min(left, 1.0))
    return len(producer)


def configuration(options: KafkaOptions) -> dict[str, Any]:
    """What librdkafka is configured with; `options.settings` come first, so these prevail over them.

    Raises nothing; librdkafka checks the names and values.
    """
    return {
        "client.id": "creditgate",
        "linger.ms": 5,
        "compression.type": options.compression,
        "queue.buffering.max.messages": 20_000,
        "queue.buffering.max.kbytes": 131_072,
        "partitioner": "murmur2_random",
        "allow.auto.create.topics": False,  # a misspelt topic is an error
        "log_level": 0,  # errors arrive by the callback
        **options.settings,
        "bootstrap.servers": ",".join(options.servers),
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": int(options.timeout_s * 1000),
        **_security(options),
    }


def _security(options: KafkaOptions) -> dict[str, Any]:
    tls, login = options.tls, options.username is not None
    if tls is None and not login:
        return {}
    protocol = ("SASL_" if login else "") + ("SSL" if tls else "PLAINTEXT")
    said: dict[str, Any] = {"security.protocol": protocol}
    if login:
        said |= {
            "sasl.mechanism": options.mechanism,
            "sasl.username": options.username,
            "sasl.password": options.password or "",
        }
    if tls is None:
        return said
    files = {
        "ssl.ca.location": tls.ca_file,
        "ssl.certificate.location": tls.client_cert,
        "ssl.key.location": tls.client_key,
    }
    said |= {name: str(path) for name, path in files.items() if path is not None}
    if not tls.verify:
        said |= {
            "enable.ssl.certificate.verification": False,
            "ssl.endpoint.identification.algorithm": "none",
        }
    return said
