"""The sections of the Parquet, HTTP and Stripe sinks."""

from pathlib import Path

import pytest

from gateway.exporter.sinks.options_http import HttpOptions
from gateway.exporter.sinks.options_parquet import ParquetOptions
from gateway.exporter.sinks.options_stripe import StripeOptions
from gateway.exporter.sinks.registry import build_sink, readable
from gateway.settings.notes import notes_of
from tests.unit.settings.conftest import Load, Problems

HOUR_MS = 3_600_000


def sink_of(kind: str, text: str) -> str:
    return "export:\n  sinks:\n    s:\n      " + kind + ": {" + text + "}\n"


def test_a_parquet_section_becomes_options(load: Load) -> None:
    text = sink_of(
        "parquet",
        "url: 's3://b/gate/', options: {region: x, secret_access_key: '${S3}'},"
        " batch_events: 500, linger_ms: 10",
    )
    options = load(text, S3="hush").optional_sinks()["s"]
    assert options == ParquetOptions(
        "s3://b/gate", {"region": "x", "secret_access_key": "hush"}, 500, 10
    )
    assert "hush" not in repr(options)
    sink = build_sink(options)
    assert (sink.batch_events, sink.linger_ms) == (500, 10)


@pytest.mark.parametrize(
    "url",
    ["/folder", "file://host/folder", "file:relative", "s3://", "gs://b/p", "s3://key:pw@b"],
)
def test_a_url_that_is_neither_folder_nor_bucket_is_refused(url: str, problems: Problems) -> None:
    (problem,) = problems(sink_of("parquet", f"url: '{url}'"))
    assert problem.path == "export.sinks.s.parquet.url"
    assert "neither a folder nor a bucket" in problem.message


def test_an_http_section_becomes_options(load: Load) -> None:
    text = sink_of(
        "http",
        "url: 'https://h/x', recipe: lago, key: '${KEY}', headers: {X-Team: a}, source: g,"
        " secret: '${SIGN}', old_secret: '${SIGN}', event_name: 'llm_{unit}',"
        " customer: '{tags.sub}', units: [input], kinds: [settle], test_keys: true, batch_items: 9,"
        " concurrent: 2, timeout_ms: 7, max_replay_age_hours: 3",
    )
    sign = "a-secret-of-24-characters"
    options = load(text, KEY="hush", SIGN=sign).optional_sinks()["s"]
    assert options == HttpOptions(
        url="https://h/x",
        recipe="lago",
        key="hush",
        headers={"x-team": "a"},
        signing_keys=(sign.encode(), sign.encode()),
        source="g",
        event_name="llm_{unit}",
        customer="{tags.sub}",
        units=("input",),
        kinds=frozenset({"settle"}),
        test_keys=True,
        batch_items=9,
        concurrent=2,
        timeout_ms=7,
        max_replay_age_ms=3 * HOUR_MS,
    )
    assert "hush" not in repr(options)
    assert sign not in repr(options)


def test_a_custom_body_becomes_options(load: Load) -> None:
    text = sink_of("http", "url: 'http://h', recipe: custom, item: {a.b: '{event_id}'}, wrap: rows")
    options = load(text).optional_sinks()["s"]
    assert options == HttpOptions("http://h", "custom", item={"a.b": "{event_id}"}, wrap="rows")
    build_sink(options)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("event_name: 'a{b}'", ".event_name", "there is no field {b}"),
        ("customer: '{customer_id'", ".customer", "a brace is not closed"),
        ("recipe: custom", ".item", "go together"),
        ("item: {a: b}", ".item", "go together"),
        ("secret: short", ".secret", "shorter than 16 bytes"),
        ("old_secret: 'whsec_!'", ".old_secret", "base64"),
        ("kinds: [grant]", ".kinds[0]", "grant"),
        ("batch_items: 1001", ".batch_items", "outside 1 … 1000"),
    ],
)
def test_a_mistake_in_an_http_section_is_named(
    text: str, path: str, message: str, problems: Problems
) -> None:
    (problem,) = problems(sink_of("http", "url: 'http://h', " + text))
    assert problem.path == "export.sinks.s.http" + path
    assert message in str(problem)


def test_a_stripe_section_becomes_options(load: Load) -> None:
    text = sink_of(
        "stripe",
        "key: '${STRIPE}', meters: {input: in_tokens}, customer: 'cus_{customer_id}',"
        " kinds: [settle], test_keys: true, stream: true, window_minutes: 15, concurrent: 3,"
        " timeout_ms: 9, url: 'http://h', stream_url: 'http://i'",
    )
    options = load(text, STRIPE="hush").optional_sinks()["s"]
    assert options == StripeOptions(
        key="hush",
        meters={"input": "in_tokens"},
        customer="cus_{customer_id}",
        kinds=frozenset({"settle"}),
        test_keys=True,
        stream=True,
        window_ms=HOUR_MS // 4,
        concurrent=3,
        timeout_ms=9,
        url="http://h",
        stream_url="http://i",
    )
    assert "hush" not in repr(options)
    assert build_sink(options).holds_back


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("meters: {}", ".meters"),
        ("meters: {input: m}, window_minutes: 7", ".window_minutes"),
        ("meters: {input: m}, customer: '{tag.x}'", ".customer"),
    ],
)
def test_a_mistake_in_a_stripe_section_is_named(text: str, path: str, problems: Problems) -> None:
    (problem,) = problems(sink_of("stripe", "key: k, " + text))
    assert problem.path == "export.sinks.s.stripe" + path


@pytest.mark.parametrize("kind", ["parquet", "http", "stripe"])
def test_none_of_them_can_be_the_required_store(kind: str, problems: Problems) -> None:
    text = {"parquet": "url: 'file:///x'", "http": "url: 'http://h'"}.get(
        kind, "key: k, meters: {input: m}"
    )
    (problem,) = problems(sink_of(kind, text) + "  required: s\n")
    assert "cannot be read back" in problem.message


def test_the_gate_does_not_need_the_driver_of_a_sink_that_is_not_configured(load: Load) -> None:
    assert readable(load().required_store())
    assert load().optional_sinks() == {}
    assert Path(load().required_store().path).name == "events.db"  # type: ignore[union-attr]


def test_a_file_of_one_machine_is_worth_a_note_where_several_gates_may_share_the_ledger(
    load: Load,
) -> None:
    text = sink_of("sqlite", "path: archive.db")
    assert list(notes_of(load(text))) == []
    [note] = notes_of(load(text + "redis: redis://ledger.internal:6379/0\n"))
    assert note.startswith("export.sinks.s is a file of this machine")
    required = text.replace("export:\n", "export:\n  required: s\n")
    assert list(notes_of(load(required + "redis: redis://ledger.internal:6379/0\n"))) == []
