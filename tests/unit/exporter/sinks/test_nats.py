"""NATS JetStream, on a real server: the sink contract, and what is its own."""

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import nats
import orjson
import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig

from gateway.domain.event_rows import EventRow
from gateway.exporter.sink import Batch, SinkUnavailable
from gateway.exporter.sinks.event_json import event_json
from gateway.exporter.sinks.nats import NatsSink, _matches
from gateway.exporter.sinks.options import NatsOptions, TlsOptions
from loadtest.certificates import write_certificates
from loadtest.sinks.servers import NatsServer
from tests.unit.exporter.sinks.contract import SinkContract, StoredIds, make_batch, make_row
from tests.unit.exporter.sinks.killing import KillContract

TEN_YEARS_MS = 10 * 365 * 86_400_000
"""The events of the contracts are from 2023."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def options(server: NatsServer) -> NatsOptions:
    """To a stream that does not exist yet."""
    return options_of(server)


def options_of(server: NatsServer) -> NatsOptions:
    name = uuid.uuid4().hex
    return NatsOptions(
        (server.url,),
        name,
        f"{name}.events.{{kind}}",
        create_stream=True,
        max_replay_age_ms=TEN_YEARS_MS,
        timeout_s=3,
    )


@pytest.fixture
async def sink(options: NatsOptions) -> AsyncIterator[NatsSink]:
    sink = NatsSink(options)
    yield sink
    await sink.close()


@pytest.fixture
def stored_ids(options: NatsOptions) -> StoredIds:
    async def read() -> list[str]:
        return [(message.headers or {})["Nats-Msg-Id"] for message in await messages(options)]

    return read


@asynccontextmanager
async def jetstream(options: NatsOptions) -> AsyncIterator[JetStreamContext]:
    connection = await nats.connect(options.servers[0])
    try:
        yield connection.jetstream()
    finally:
        await connection.close()


async def messages(options: NatsOptions) -> list[Msg]:
    async with jetstream(options) as stream:
        missing = (await stream.stream_info(options.stream)).state.messages
        reader = await stream.pull_subscribe(
            "", stream=options.stream, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
        )
        found: list[Msg] = []
        while missing > len(found):
            found += await reader.fetch(min(missing - len(found), 5000))
        return found


def too_large(seq: int) -> EventRow:
    return make_row(seq, facts={"blob": "x" * (1 << 20)})


class TestContract(SinkContract):
    keeps_cursors = False

    @pytest.fixture
    def unacceptable(self) -> EventRow:
        return too_large(0)


class TestKills(KillContract):
    """Exactly once: the stream drops the repeats."""


async def test_a_message_is_the_event_under_its_kind(sink: NatsSink, options: NatsOptions) -> None:
    row = make_row(4, kind="grant", facts={"note": "é ✓"})
    await sink.open()
    await sink.write(Batch([row]))
    (message,) = await messages(options)
    assert message.subject == f"{options.stream}.events.grant"
    assert message.data == event_json(row)
    assert orjson.loads(message.data)["usage"] == {"input": 12, "output": 5}


async def test_a_customer_is_one_token_of_the_subject(options: NatsOptions) -> None:
    options = replace(options, subject=f"{options.stream}.{{customer_id}}.{{kind}}")
    sink = NatsSink(options)
    await sink.open()
    names = ["acme", "a.b*c >d", "é"]
    await sink.write(Batch([make_row(seq, customer_id=name) for seq, name in enumerate(names)]))
    assert [message.subject.partition(".")[2] for message in await messages(options)] == [
        "acme.settle",
        "a%2Eb%2Ac%20%3Ed.settle",
        "%C3%A9.settle",
    ]
    await sink.close()


async def test_a_batch_larger_than_the_window_is_stored_in_parts(options: NatsOptions) -> None:
    sink = NatsSink(replace(options, window=7))
    await sink.open()
    batch = make_batch(0, 50)
    written = await sink.write(Batch([*batch.rows[:20], too_large(99), *batch.rows[20:]]))
    assert (written.stored, written.duplicates, len(written.failed)) == (50, 0, 1)
    written = await sink.write(make_batch(40, 60))
    assert (written.stored, written.duplicates) == (10, 10)
    assert len(await messages(options)) == 60
    await sink.close()


async def test_a_message_that_the_stream_finds_too_large_fails_alone(
    sink: NatsSink, options: NatsOptions
) -> None:
    async with jetstream(options) as stream:
        await stream.add_stream(
            StreamConfig(
                name=options.stream,
                subjects=[f"{options.stream}.>"],
                duplicate_window=TEN_YEARS_MS / 1000 + 60,
                max_msg_size=2000,
            )
        )
    await sink.open()
    large = make_row(1, facts={"blob": "x" * 3000})
    written = await sink.write(Batch([make_row(0), large, make_row(2)]))
    assert (written.stored, written.duplicates) == (2, 0)
    ((failure),) = written.failed
    assert failure.row == large
    assert not failure.retry
    assert "size" in failure.reason


async def test_a_full_stream_is_unavailable_until_there_is_room(
    sink: NatsSink, options: NatsOptions
) -> None:
    config = StreamConfig(
        name=options.stream,
        subjects=[f"{options.stream}.>"],
        duplicate_window=TEN_YEARS_MS / 1000 + 60,
        max_msgs=4,
    )
    async with jetstream(options) as stream:
        await stream.add_stream(config, discard="new")
        await sink.open()
        with pytest.raises(SinkUnavailable, match="maximum messages"):
            await sink.write(make_batch(0, 6))
        await stream.update_stream(replace(config, max_msgs=10), discard="new")
        await sink.open()
        written = await sink.write(make_batch(0, 6))
        assert (written.stored, written.duplicates) == (2, 4)


async def test_what_became_too_old_during_an_outage_is_not_sent(options: NatsOptions) -> None:
    sink = NatsSink(replace(options, max_replay_age_ms=60_000))
    await sink.open()
    young = make_row(1, occurred_at_ms=int(time.time() * 1000))
    written = await sink.write(Batch([make_row(0), young]))
    assert (written.stored, [failure.row.seq for failure in written.failed]) == (1, [0])
    assert "max_replay_age" in written.failed[0].reason
    await sink.close()


async def test_a_stream_that_forgets_before_the_replay_age_is_refused(
    options: NatsOptions,
) -> None:
    async with jetstream(options) as stream:
        await stream.add_stream(
            StreamConfig(
                name=options.stream, subjects=[f"{options.stream}.>"], duplicate_window=120
            )
        )
    sink = NatsSink(replace(options, max_replay_age_ms=60_001))
    with pytest.raises(
        SinkUnavailable, match=r"recognises repeats for 120000 ms.*--dupe-window=121s"
    ):
        await sink.open()
    sink = NatsSink(replace(options, max_replay_age_ms=60_000))
    await sink.open()
    await sink.close()


async def test_a_stream_that_does_not_exist_is_named(options: NatsOptions) -> None:
    sink = NatsSink(replace(options, create_stream=False))
    with pytest.raises(SinkUnavailable, match=options.stream):
        await sink.open()


async def test_a_stream_without_the_subject_is_refused(
    sink: NatsSink, options: NatsOptions
) -> None:
    await sink.open()
    other = NatsSink(replace(options, subject="elsewhere.{kind}"))
    with pytest.raises(SinkUnavailable, match=r"does not take 'elsewhere.settle'"):
        await other.open()


async def test_a_subject_that_no_stream_takes_any_more_is_unavailable(
    sink: NatsSink, options: NatsOptions
) -> None:
    await sink.open()
    async with jetstream(options) as stream:
        await stream.delete_stream(options.stream)
        with pytest.raises(SinkUnavailable, match="no stream takes the subject"):
            await sink.write(make_batch(0, 3))
    await sink.open()
    assert (await sink.write(make_batch(0, 3))).stored == 3


async def test_a_subject_that_another_stream_took_over_is_unavailable(
    sink: NatsSink, options: NatsOptions
) -> None:
    await sink.open()
    other = uuid.uuid4().hex
    async with jetstream(options) as stream:
        await stream.delete_stream(options.stream)
        await stream.add_stream(StreamConfig(name=other, subjects=[f"{options.stream}.>"]))
    with pytest.raises(SinkUnavailable, match=f"stream '{other}' took the subject"):
        await sink.write(make_batch(0, 3))


async def test_repeats_are_recognised_after_the_server_was_killed(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    options = options_of(server)
    sink = NatsSink(options)
    await sink.open()
    await sink.write(make_batch(0, 500))
    server.stop()
    with pytest.raises(SinkUnavailable):
        await sink.write(make_batch(0, 600))
    with pytest.raises(SinkUnavailable):
        await sink.open()
    server.start()
    await sink.open()
    written = await sink.write(make_batch(0, 600))
    assert (written.stored, written.duplicates) == (100, 500)
    assert len(await messages(options)) == 600
    await sink.close()
    server.stop()


@pytest.mark.parametrize("count", [10, 9000], ids=["in the socket's buffer", "beyond it"])
async def test_a_server_that_does_not_answer_is_unavailable(
    options: NatsOptions, server: NatsServer, count: int
) -> None:
    sink = NatsSink(replace(options, timeout_s=0.5))
    await sink.open()
    server.send(signal.SIGSTOP)
    try:
        with pytest.raises(SinkUnavailable):
            async with asyncio.timeout(5):
                await sink.write(make_batch(0, count))
    finally:
        server.send(signal.SIGCONT)
    await sink.open()
    await sink.write(make_batch(0, count))
    assert len(await messages(options)) == count
    await sink.close()


async def test_the_next_server_is_tried_when_the_first_cannot_be_reached(
    options: NatsOptions,
) -> None:
    sink = NatsSink(replace(options, servers=("nats://127.0.0.1:1", *options.servers)))
    await sink.open()
    assert (await sink.write(make_batch(0, 2))).stored == 2
    await sink.close()


async def test_writing_unopened_is_unavailable(sink: NatsSink) -> None:
    with pytest.raises(SinkUnavailable, match="not connected"):
        await sink.write(make_batch(0, 1))


async def test_bad_credentials_and_missing_rights_are_named_without_the_secret(
    tmp_path: Path,
) -> None:
    rights = tmp_path / "server.conf"
    rights.write_text(
        """authorization: { users: [
          { user: gate, password: hunter2hunter2, permissions: {
            publish: ["$JS.API.STREAM.>"], subscribe: "_INBOX.>" } } ] }"""
    )
    server = NatsServer(tmp_path / "js", "-c", str(rights))
    server.start()
    bad = NatsSink(replace(options_of(server), username="gate", password="not-hunter2"))
    with pytest.raises(SinkUnavailable, match=r"(?i)authorization violation") as raised:
        await bad.open()
    assert "hunter2" not in str(raised.value) + repr(bad)
    limited = NatsSink(replace(options_of(server), username="gate", password="hunter2hunter2"))
    await limited.open()
    with pytest.raises(SinkUnavailable, match=r"(?i)permissions violation for publish"):
        await limited.write(make_batch(0, 3))
    await limited.close()
    server.stop()


async def test_tls_checks_the_servers_certificate_unless_it_is_switched_off(tmp_path: Path) -> None:
    ca, certificate, key = write_certificates(tmp_path)
    server = NatsServer(tmp_path / "js", f"--tlscert={certificate}", f"--tlskey={key}")
    server.start()
    for tls in (TlsOptions(ca_file=ca), TlsOptions(verify=False)):
        sink = NatsSink(replace(options_of(server), tls=tls))
        await sink.open()
        assert (await sink.write(make_batch(0, 3))).stored == 3
        await sink.close()
    stranger = NatsSink(replace(options_of(server), tls=TlsOptions()))
    with pytest.raises(SinkUnavailable, match="certificate"):
        await stranger.open()
    server.stop()


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        (">", "a", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.*.c", "a.b.c", True),
        ("a.*", "a.b.c", False),
        ("a.b", "a.c", False),
    ],
)
def test_a_subject_matches_as_the_server_says(pattern: str, subject: str, expected: bool) -> None:
    assert _matches(pattern, subject) is expected
