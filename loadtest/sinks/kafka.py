"""What Kafka costs the exporter: `python -m loadtest.sinks.kafka [--events 200000]`.

The broker is Tansu. It is paused in the middle for longer than the sink's time-out. Then another is killed and
started again in the middle: its topics survive that in an S3 bucket of Moto's, which is so slow that it gets
fewer events, and small batches.
"""

import argparse
import asyncio
import signal
import time
from collections.abc import Callable

from confluent_kafka import KafkaError, Message, Producer

from gateway.domain.event_rows import EventRow
from gateway.exporter.sinks.event_json import event_json
from gateway.exporter.sinks.kafka import configuration
from gateway.exporter.sinks.options import KafkaOptions
from loadtest.exporter_cost import SHARDS
from loadtest.sinks.measuring import (
    BATCH,
    Speed,
    Stopwatch,
    measure_exporter,
    outbox_server,
    read_rows,
)
from loadtest.sinks.servers import ObjectStore, TansuBroker, create_topic, read_topic

TIMEOUT_S = 2.0


def load(options: KafkaOptions, rows: list[EventRow], events: int) -> Speed:
    """Produce the same messages, encoded before, with the sink's settings and nothing else."""
    ready = [(event_json(row), row.customer_id, row.event_id.encode()) for row in rows]
    acknowledged = 0

    def reported(error: KafkaError | None, _message: Message) -> None:
        nonlocal acknowledged
        assert error is None, error
        acknowledged += 1

    producer = Producer({**configuration(options), "on_delivery": reported})
    producer.list_topics(options.topic, 10)
    watch, produce, topic = Stopwatch(), producer.produce, options.topic
    for _ in range(0, events, BATCH):
        for value, key, event_id in ready:
            produce(topic, value, key, headers=[("event_id", event_id)])
        producer.flush(30)
    speed = watch.speed(acknowledged)
    assert acknowledged >= events
    return speed


def export(
    address: str,
    topic: str,
    events: int,
    interrupt: Callable[[], None] | None = None,
    *,
    batch: int = BATCH,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """Export into a new topic and check that all arrived. Returns what it cost."""
    create_topic(address, topic)
    with outbox_server() as socket:
        options = KafkaOptions((address,), topic, timeout_s=timeout_s)
        speed, figures = asyncio.run(measure_exporter(socket, options, events, interrupt, batch))
    ids = [dict(message.headers() or [])["event_id"] for message in read_topic(address, topic)]
    distinct = len(set(ids))
    assert distinct == events // SHARDS * SHARDS, f"{events - distinct} lost"
    return f"{speed}; 0 lost, {len(ids) - distinct} repeated, {figures['retries']:.0f} waits"


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--restart-events", type=int, default=40_000)
    given = parser.parse_args()
    broker = TansuBroker()
    broker.start()

    def pause() -> None:
        broker.send(signal.SIGSTOP)
        time.sleep(TIMEOUT_S + 1)
        broker.send(signal.SIGCONT)

    try:
        options = KafkaOptions((broker.address,), "loaded", timeout_s=TIMEOUT_S)
        create_topic(broker.address, options.topic)
        with outbox_server() as socket:
            rows = asyncio.run(read_rows(socket))
        print("bare loader:      ", load(options, rows, given.events))
        print("exporter:         ", export(broker.address, "exported", given.events))
        print("exporter, paused: ", export(broker.address, "paused", given.events, pause))
    finally:
        broker.stop()
    bucket = ObjectStore()
    bucket.start()
    bucket.create_bucket("tansu")
    lasting = TansuBroker(bucket_of=bucket)
    lasting.start()

    def restart() -> None:
        lasting.stop()
        time.sleep(1)
        lasting.start()

    try:
        result = export(
            lasting.address, "restarted", given.restart_events, restart, batch=512, timeout_s=10
        )
        print("exporter, restart:", result)
    finally:
        lasting.stop()
        bucket.stop()


if __name__ == "__main__":
    main()
