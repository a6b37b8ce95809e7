"""What the server's answers are made into."""

import pytest

from gateway.domain.stores import StoreMissing
from gateway.exporter.sinks.clickhouse_protocol import Server, literal, literals, refused
from gateway.exporter.sinks.clickhouse_reader import ClickHouseAccess
from gateway.exporter.sinks.clickhouse_schema import missing
from gateway.exporter.sinks.clickhouse_sync import ClickHouseReading
from gateway.exporter.sinks.options import ClickHouseOptions
from tests.support.clickhouse_server import ClickHouseServer, server

__all__ = ["server"]

OPTIONS = ClickHouseOptions("http://127.0.0.1:1", user="gate", password="hunter2")
OLD = Server("18.16.1", frozenset())


def test_literals_cannot_leave_their_quotes() -> None:
    assert literal("it's \\ \0") == "'it\\'s \\\\ \\0'"
    assert literals([1, "a"]) == "(1, 'a')"


@pytest.mark.parametrize(
    ("body", "quote", "code", "message"),
    [
        (
            "Code: 516. DB::Exception: gate: Authentication failed. (AUTHENTICATION_FAILED)",
            True,
            516,
            "user 'gate' or its password is not accepted",
        ),
        (
            "Code: 497. DB::Exception: gate: Not enough privileges. To execute this query, it's"
            " necessary to have the grant INSERT(seq) ON creditgate.events. (ACCESS_DENIED)",
            False,
            497,
            "user 'gate' lacks a right: gate: Not enough privileges. To execute this query, it's"
            " necessary to have the grant INSERT(seq) ON creditgate.events. (ACCESS_DENIED)",
        ),
        (
            "Code: 117. DB::Exception: Cannot parse {customer: acme}. (INCORRECT_DATA)",
            False,
            117,
            "the server has refused a statement: INCORRECT_DATA",
        ),
        (
            "Code: 27, e.displayText() = DB::Exception: Cannot parse {customer: acme}",
            False,
            27,
            "the server has refused a statement: code 27",
        ),
        (
            "Code: 60, e.displayText() = DB::Exception: Table x doesn't exist.",
            True,
            60,
            "the server has refused a statement: Table x doesn't exist.",
        ),
        ("<html>502</html>", True, 0, "the server has refused a statement: <html>502</html>"),
    ],
)
def test_a_refusal_says_why_and_shows_no_event_of_an_insert(
    body: str, quote: bool, code: int, message: str
) -> None:
    error = refused(OPTIONS, body, quote=quote)
    assert (error.code, str(error)) == (code, message)


def test_an_old_server_is_given_what_it_knows() -> None:
    statements = "".join(missing(0, OLD))
    for word in ("LowCardinality", "INDEX", "fsync", "SETTINGS", "<"):
        assert word not in statements.replace("<> 'settle_late'", "")
    assert OLD.insert_settings("token") == {}


def test_a_server_that_is_away_is_a_missing_store() -> None:
    access = ClickHouseAccess(OPTIONS)
    for ask in (access.open, access.open_or_empty, access.cursors):
        with pytest.raises(StoreMissing, match=r"127\.0\.0\.1:1: "):
            ask()
    assert access.shown == "http://127.0.0.1:1/creditgate"
    assert "hunter2" not in repr(OPTIONS)


def test_an_answer_that_breaks_off_is_not_taken_for_the_end(server: ClickHouseServer) -> None:
    reading = ClickHouseReading(server.options(database="default"))
    statement = "SELECT throwIf(number = 900000) AS fine FROM system.numbers LIMIT 1000000"
    with pytest.raises(StoreMissing, match=r"refused a statement|peer closed"):
        for _ in reading.stream(statement):
            pass
    reading.close()
