"""The section of a Kafka sink: what it compiles to, and what is refused."""

from pathlib import Path

import pytest

from gateway.exporter.sinks.options import KafkaOptions, TlsOptions
from tests.unit.settings.conftest import Load, Problems

SINK = "export:\n  sinks:\n    bus:\n      kafka: {%s}\n"
LEAST = "servers: ['k:9092'], topic: usage"


def test_the_least_that_is_needed_has_sound_defaults(load: Load) -> None:
    assert load(SINK % LEAST).export.optional_sinks(Path()) == {
        "bus": KafkaOptions(("k:9092",), "usage")
    }


def test_everything_that_can_be_set_arrives(load: Load) -> None:
    more = (
        f"{LEAST}, username: me, password: '${{PASSWORD}}', sasl_mechanism: PLAIN, tls: {{verify: false}},"
        " compression: zstd, timeout_ms: 3000, settings: {linger.ms: 5}"
    )
    (options,) = load(SINK % more, PASSWORD="secret-1").export.optional_sinks(Path()).values()
    assert options == KafkaOptions(
        ("k:9092",),
        "usage",
        "me",
        "secret-1",
        "PLAIN",
        TlsOptions(verify=False),
        "zstd",
        3.0,
        {"linger.ms": "5"},
    )
    assert "secret-1" not in repr(options)


@pytest.mark.parametrize(
    ("said", "where", "message"),
    [
        (f"{LEAST}, settings: {{acks: 1}}", "settings", "no event may get lost"),
        (f"{LEAST}, settings: {{sasl.password: x}}", "settings", "has its own field"),
        (f"{LEAST}, username: me", "", "must be set together"),
        ("servers: [], topic: t", "servers", "is empty"),
        ("servers: [kafka-1], topic: t", "servers[0]", "is not host:port"),
        ("servers: ['k:9092'], topic: a b", "topic", "is not a topic's name"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_said(
    problems: Problems, said: str, where: str, message: str
) -> None:
    (problem,) = problems(SINK % said)
    assert problem.path == ".".join(part for part in ("export.sinks.bus.kafka", where) if part)
    assert message in problem.message


def test_it_cannot_be_the_required_store(problems: Problems) -> None:
    (problem,) = problems(SINK.replace("export:\n", "export:\n  required: bus\n") % LEAST)
    assert problem.path == "export.required"
