"""Kafka, on a real broker: the sink contract, and what is its own."""

import asyncio
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace

import orjson
import pytest
from confluent_kafka import KafkaError, Message

from gateway.domain.event_rows import EventRow
from gateway.exporter.sink import Batch, Failure, SinkUnavailable
from gateway.exporter.sinks.event_json import event_json
from gateway.exporter.sinks.kafka import KafkaSink, configuration
from gateway.exporter.sinks.options import KafkaOptions, TlsOptions
from loadtest.sinks.servers import TansuBroker, create_topic, read_topic
from tests.unit.exporter.sinks.contract import SinkContract, StoredIds, make_batch, make_row
from tests.unit.exporter.sinks.killing import KillContract


@pytest.fixture(scope="module")
def broker() -> Iterator[TansuBroker]:
    broker = TansuBroker()
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def options(broker: TansuBroker) -> KafkaOptions:
    """To a new topic."""
    options = KafkaOptions((broker.address,), f"usage-{uuid.uuid4()}", timeout_s=3)
    create_topic(broker.address, options.topic)
    return options


@pytest.fixture
async def sink(options: KafkaOptions) -> AsyncIterator[KafkaSink]:
    sink = KafkaSink(options)
    yield sink
    await sink.close()


@pytest.fixture
def stored_ids(options: KafkaOptions) -> StoredIds:
    async def read() -> list[str]:
        return [id_of(message) for message in await messages(options)]

    return read


async def messages(options: KafkaOptions) -> list[Message]:
    return await asyncio.to_thread(read_topic, options.servers[0], options.topic)


def id_of(message: Message) -> str:
    value = dict(message.headers() or [])["event_id"]
    assert isinstance(value, bytes)
    return value.decode()


def too_large(seq: int) -> EventRow:
    return make_row(seq, facts={"blob": "x" * 1_100_000})


class TestContract(SinkContract):
    keeps_cursors = False
    recognises_repeats = False

    @pytest.fixture
    def unacceptable(self) -> EventRow:
        return too_large(0)


class TestKills(KillContract):
    exactly_once = False


async def test_a_message_is_the_event_with_its_customer_as_the_key(
    sink: KafkaSink, options: KafkaOptions
) -> None:
    row = make_row(4, facts={"model": "m", "note": "é ✓"}, cost_nano=2)
    await sink.open()
    await sink.write(Batch([row]))
    (message,) = await messages(options)
    assert message.key() == b"acme"
    assert message.value() == event_json(row)
    assert orjson.loads(message.value() or b"")["usage"] == {"input": 12, "output": 5}


async def test_events_of_one_customer_stay_in_one_partition_in_order(
    sink: KafkaSink, options: KafkaOptions
) -> None:
    names = [f"customer-{number}" for number in range(20)]
    rows = [make_row(seq, customer_id=names[seq % 20]) for seq in range(400)]
    await sink.open()
    await sink.write(Batch(rows))
    partitions: dict[bytes, set[int]] = {}
    order: dict[bytes, list[int]] = {}
    for message in await messages(options):
        partitions.setdefault(message.key() or b"", set()).add(message.partition() or 0)
        order.setdefault(message.key() or b"", []).append(
            orjson.loads(message.value() or b"")["seq"]
        )
    assert all(len(numbers) == 1 for numbers in partitions.values())
    assert len(set().union(*partitions.values())) > 1
    assert all(seqs == sorted(seqs) for seqs in order.values())


async def test_keys_are_hashed_as_java_clients_do(sink: KafkaSink, options: KafkaOptions) -> None:
    """murmur2 of "21" is -973932308, of "foobar" -790332482 (Kafka's UtilsTest), without the sign modulo 3."""
    await sink.open()
    await sink.write(Batch([make_row(0, customer_id="21"), make_row(1, customer_id="foobar")]))
    found = {message.key(): message.partition() for message in await messages(options)}
    assert found == {
        b"21": (-973932308 & 0x7FFFFFFF) % 3,
        b"foobar": (-790332482 & 0x7FFFFFFF) % 3,
    }


async def test_a_full_queue_waits_for_room(options: KafkaOptions) -> None:
    sink = KafkaSink(replace(options, settings={"queue.buffering.max.messages": "10"}))
    await sink.open()
    assert (await sink.write(make_batch(0, 200))).stored == 200
    await sink.close()
    assert len(await messages(options)) == 200


async def test_when_a_broker_refuses_a_request_for_one_of_its_messages_the_others_are_delivered(
    options: KafkaOptions,
) -> None:
    """The refusal is simulated: this broker takes messages of any size."""
    large = make_row(2, facts={"blob": "x" * 5000})

    class Refused(KafkaSink):
        refusing = False

        def _produce(self, rows: Sequence[EventRow]) -> list[Failure]:
            self.refusing = large in rows
            return super()._produce(rows)

        def _reported(self, error: KafkaError | None, message: Message) -> None:
            refusal = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
            super()._reported(refusal if self.refusing else error, message)

    sink = Refused(options)
    await sink.open()
    written = await sink.write(Batch([make_row(0), make_row(1), large, make_row(3)]))
    assert (written.stored, written.duplicates) == (3, 0)
    ((failure),) = written.failed
    assert (failure.row, failure.retry) == (large, False)
    await sink.close()


async def test_a_broker_that_does_not_answer_is_unavailable_and_what_it_had_is_not_sent_again(
    sink: KafkaSink, options: KafkaOptions, broker: TansuBroker
) -> None:
    """Stopped in the middle of a batch, in small requests."""
    small = {"batch.num.messages": "20", "linger.ms": "0", "max.in.flight": "1"}
    sink = KafkaSink(replace(options, timeout_s=1, settings=small))
    await sink.open()
    batch = make_batch(0, 9_000)
    writing = asyncio.create_task(sink.write(batch))
    while sink._acknowledged < 100:  # noqa: ASYNC110 - counted in another thread
        await asyncio.sleep(0.001)
    broker.send(signal.SIGSTOP)
    try:
        with pytest.raises(SinkUnavailable, match="timed out"):
            await writing
    finally:
        broker.send(signal.SIGCONT)
    await sink.open()
    written = await sink.write(batch)
    assert (written.stored, written.duplicates, written.failed) == (9_000, 0, [])
    await sink.close()
    counts = Counter(id_of(message) for message in await messages(options))
    assert set(counts) == {row.event_id for row in batch.rows}
    assert counts.total() < 9_000 + 200  # at most what was in flight


async def test_after_a_restart_of_the_broker_it_goes_on(options: KafkaOptions) -> None:
    broker = TansuBroker()
    broker.start()
    options = replace(options, servers=(broker.address,), timeout_s=1)
    create_topic(broker.address, options.topic)
    sink = KafkaSink(options)
    await sink.open()
    await sink.write(make_batch(0, 3))
    broker.stop()
    with pytest.raises(SinkUnavailable):
        await sink.write(make_batch(3, 6))
    broker.start()
    create_topic(broker.address, options.topic)
    await sink.open()
    assert (await sink.write(make_batch(3, 6))).stored == 3
    assert sorted(id_of(message) for message in await messages(options)) == [
        f"r0-{seq}:settled" for seq in (3, 4, 5)
    ]
    await sink.close()
    broker.stop()


async def test_a_topic_that_does_not_exist_is_named(options: KafkaOptions) -> None:
    sink = KafkaSink(replace(options, topic="nowhere"))
    with pytest.raises(SinkUnavailable, match="topic 'nowhere'"):
        await sink.open()


async def test_writing_unopened_is_unavailable(sink: KafkaSink) -> None:
    with pytest.raises(SinkUnavailable, match="not connected"):
        await sink.write(make_batch(0, 1))


async def test_a_setting_that_librdkafka_does_not_know_is_named(options: KafkaOptions) -> None:
    sink = KafkaSink(replace(options, settings={"lingers.ms": "5"}))
    with pytest.raises(SinkUnavailable, match=r"lingers\.ms"):
        await sink.open()


async def test_bad_credentials_are_named_without_the_secret() -> None:
    broker = TansuBroker("--authentication")
    broker.start()
    options = KafkaOptions((broker.address,), "usage", "gate", "hunter2hunter2")
    sink = KafkaSink(options)
    with pytest.raises(SinkUnavailable, match=r"(?i)authentication") as raised:
        await sink.open()
    assert "hunter2" not in str(raised.value) + repr(sink)
    broker.stop()


def test_what_the_promises_rest_on_cannot_be_overridden() -> None:
    said = configuration(
        KafkaOptions(("a:1", "b:2"), "t", settings={"acks": "0", "enable.idempotence": "false"})
    )
    assert (said["acks"], said["enable.idempotence"]) == ("all", True)
    assert said["bootstrap.servers"] == "a:1,b:2"
    assert "security.protocol" not in said


def test_login_and_tls_are_said_in_librdkafkas_names() -> None:
    said = configuration(KafkaOptions(("a:1",), "t", "me", "pw", "PLAIN", TlsOptions(verify=False)))
    assert said["security.protocol"] == "SASL_SSL"
    assert (said["sasl.mechanism"], said["sasl.username"], said["sasl.password"]) == (
        "PLAIN",
        "me",
        "pw",
    )
    assert said["enable.ssl.certificate.verification"] is False
    only_tls = configuration(KafkaOptions(("a:1",), "t", tls=TlsOptions()))
    assert only_tls["security.protocol"] == "SSL"
    assert "enable.ssl.certificate.verification" not in only_tls
