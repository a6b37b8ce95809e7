"""The section of a NATS sink: what it compiles to, and what is refused."""

from pathlib import Path

import pytest

from gateway.exporter.sinks.options import NatsOptions, TlsOptions
from tests.unit.settings.conftest import Load, Problems

SINK = "export:\n  sinks:\n    bus:\n      nats: {%s}\n"
SERVERS = "servers: ['nats://n:4222']"


def test_the_least_that_is_needed_has_sound_defaults(load: Load) -> None:
    assert load(SINK % SERVERS).export.optional_sinks(Path()) == {
        "bus": NatsOptions(("nats://n:4222",), "creditgate", "creditgate.events.{kind}")
    }


def test_everything_that_can_be_set_arrives(load: Load) -> None:
    more = (
        f"{SERVERS}, stream: usage, subject: 'u.{{customer_id}}.{{kind}}', create_stream: true,"
        " max_replay_age_ms: 60000, max_pending: 100, timeout_ms: 3000,"
        " username: me, password: '${PASSWORD}', tls: {}"
    )
    (options,) = load(SINK % more, PASSWORD="secret-1").export.optional_sinks(Path()).values()
    assert options == NatsOptions(
        ("nats://n:4222",),
        "usage",
        "u.{customer_id}.{kind}",
        "me",
        "secret-1",
        None,
        TlsOptions(),
        True,
        60_000,
        100,
        3.0,
    )
    assert "secret-1" not in repr(options)


@pytest.mark.parametrize(
    ("said", "where", "message"),
    [
        ("servers: []", "servers", "is empty"),
        ("servers: ['nats://me:pw@n:4222']", "servers[0]", "user or password in the URL"),
        ("servers: ['http://n:4222']", "servers[0]", "is not a nats or tls URL"),
        ("servers: ['nats://n:99999']", "servers[0]", "is not a URL"),
        (f"{SERVERS}, stream: a.b", "stream", "is not a stream's name"),
        (f"{SERVERS}, subject: 'a.x{{kind}}'", "subject", "is not a subject"),
        (f"{SERVERS}, subject: 'a.{{shard}}'", "subject", "is not a subject"),
        (f"{SERVERS}, subject: 'a.>'", "subject", "is not a subject"),
        (f"{SERVERS}, subject: 'a..b'", "subject", "is not a subject"),
        (f"{SERVERS}, password: x", "", "must be set together"),
        (f"{SERVERS}, token: x, username: me, password: y", "", "exclude each other"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_said(
    problems: Problems, said: str, where: str, message: str
) -> None:
    (problem,) = problems(SINK % said)
    assert problem.path == ".".join(part for part in ("export.sinks.bus.nats", where) if part)
    assert message in problem.message
