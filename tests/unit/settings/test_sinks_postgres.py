"""The section of a Postgres sink: what a URL may be, and that none is ever shown."""

import pytest

from gateway.exporter.sinks.options import PostgresOptions
from tests.unit.settings.conftest import Load, Problems

SECTION = "export: {required: own, sinks: {own: {postgres: %s}}}\n"
SINK = SECTION % "{url: '%s'}"


def test_a_postgres_store_has_defaults_and_settings(load: Load) -> None:
    url = "postgresql://gate:pw@db.internal:5432/creditgate?sslmode=verify-full"
    assert load(SINK % "${URL}", URL=url).required_store() == PostgresOptions(url)
    more = "{url: '${URL}', schema: Usage_1, connect_timeout_ms: 500, timeout_ms: 600}"
    settings = load(SECTION % more, URL=url)
    assert settings.required_store() == PostgresOptions(url, "Usage_1", 500, 600)
    assert "pw@" not in repr(settings.export) + repr(settings.required_store())


@pytest.mark.parametrize(
    "url",
    [
        "postgres://h/db",
        "postgresql:///db?host=/run/postgresql",
        "postgresql://u@%2Frun%2Fpostgresql/db",
        "postgresql://a:5432,b:5433/db?target_session_attrs=read-write",
        "postgresql://u:p%40w%2F%23@[::1]:5432/db",
        "postgresql://u:with:colons@10.0.0.1/db",
        "postgresql://u@h?dbname=db",
    ],
)
def test_urls_of_libpq_are_taken(load: Load, url: str) -> None:
    options = load(SINK % url).required_store()
    assert isinstance(options, PostgresOptions)
    assert options.url == url


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("mysql://u:hush@h/db", "begins with postgresql://"),
        ("postgresql://u:hush/hush@h/db", "is not a Postgres URL"),
        ("postgresql://u:hush#hush@h/db", "is not a Postgres URL"),
        ("postgresql://u:hush@hush@h/db", "is not a Postgres URL"),
        ("postgresql://u:hush?a=hush@h/db", "is not a Postgres URL"),
        ("postgresql://u:hush?hush@h/db", "has a query that cannot be read"),
        ("postgresql://u:100%hush@h/db", "is not a Postgres URL"),
        ("postgresql://u:hush@[h/db", "is not a Postgres URL"),
        ("postgresql://u:hush@h:port/db", "is not a Postgres URL"),
        ("postgresql://u:hush@h", "names no database"),
    ],
)
def test_other_urls_are_refused_and_not_shown(problems: Problems, url: str, what: str) -> None:
    (problem,) = problems(SINK % url)
    assert problem.path == "export.sinks.own.postgres.url"
    assert what in problem.message
    assert "hush" not in str(problem)


@pytest.mark.parametrize("schema", ["", "1a", "pg_x", "a-b", "a" * 64, "a.b"])
def test_a_schema_is_a_plain_name(problems: Problems, schema: str) -> None:
    sink = f"{{url: 'postgresql://h/db', schema: '{schema}'}}"
    (problem,) = problems(SECTION % sink)
    assert problem.path == "export.sinks.own.postgres.schema"
