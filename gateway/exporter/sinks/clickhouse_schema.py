"""The tables in ClickHouse, as a list of migrations. Append; never change one that was released.

Amounts are integers of nano-credits, times Unix ms, lists and maps JSON text. No table forgets by itself that
it has a row twice: each is a ReplacingMergeTree, in which the first row of equal keys stays, and is read with
FINAL. `position` is the order of arrival: microseconds of the exporter's clock, made to grow.
Statements can be repeated: there are no transactions, and two exporters may start at once.
"""

import secrets
import time
from collections.abc import Sequence
from typing import Final

from gateway.domain.refusals import MOST_NANO
from gateway.exporter.sink import StoreTooNew
from gateway.exporter.sinks.clickhouse_protocol import Server, literal

_FIRST_STAYS: Final = "version UInt64 MATERIALIZED bitNot(toUInt64(position))"
_FURTHEST_STAYS: Final = "version UInt64 MATERIALIZED toUInt64(seq + 1)"

_EVENTS: Final = f"""
    CREATE TABLE IF NOT EXISTS events (
        event_id String,
        shard Int32,
        epoch Int64,
        seq Int64,
        kind <label>,
        occurred_at_ms Int64,
        customer_id String,
        project_id Nullable(String),
        key_id Nullable(String),
        request_id Nullable(String),
        route <label or null>,
        model <label or null>,
        upstream <label or null>,
        livemode Nullable(UInt8),
        price_version <label or null>,
        amount_nano Int64,
        estimated_amount_nano Int64,
        cost_nano Nullable(Int64),
        balance_nano Int64,
        usage String,
        allocations String,
        facts String,
        stored_at_ms Int64,
        position Int64,
        {_FIRST_STAYS}<indexes>
    ) ENGINE = ReplacingMergeTree(version)
    PARTITION BY toYYYYMM(toDateTime(intDiv(occurred_at_ms, 1000), 'UTC'))
    ORDER BY (shard, epoch, seq)<durable and aware of repeats>
"""
_INDEXES: Final = """,
        INDEX by_id event_id TYPE bloom_filter GRANULARITY 1,
        INDEX by_request request_id TYPE bloom_filter GRANULARITY 1,
        INDEX by_customer customer_id TYPE bloom_filter GRANULARITY 1,
        INDEX by_time occurred_at_ms TYPE minmax GRANULARITY 1,
        INDEX by_position position TYPE minmax GRANULARITY 1"""
_CURSORS: Final = f"""
    CREATE TABLE IF NOT EXISTS cursors (
        shard Int32,
        epoch Int64,
        seq Int64,
        position Int64,
        {_FURTHEST_STAYS}
    ) ENGINE = ReplacingMergeTree(version) ORDER BY (shard, epoch)<durable>
"""
_SINK_CURSORS: Final = f"""
    CREATE TABLE IF NOT EXISTS sink_cursors (
        sink String,
        shard Int32,
        epoch Int64,
        seq Int64,
        {_FURTHEST_STAYS}
    ) ENGINE = ReplacingMergeTree(version) ORDER BY (sink, shard, epoch)<durable>
"""
_DEAD_LETTERS: Final = f"""
    CREATE TABLE IF NOT EXISTS dead_letters (
        shard Int32,
        epoch Int64,
        seq Int64,
        event_id String,
        reason String,
        payload_hex String,
        payload String ALIAS unhex(payload_hex),
        noticed_at_ms Int64,
        sink String,
        position Int64,
        {_FIRST_STAYS}
    ) ENGINE = ReplacingMergeTree(version) ORDER BY (shard, epoch, seq, sink, event_id)<durable>
"""
_ANOMALIES: Final = f"""
    CREATE TABLE IF NOT EXISTS anomalies (
        kind String,
        shard Int32,
        after_epoch Int64,
        after_seq Int64,
        found_epoch Int64,
        found_seq Int64,
        noticed_at_ms Int64,
        position Int64,
        {_FIRST_STAYS}
    ) ENGINE = ReplacingMergeTree(version)
    ORDER BY (kind, shard, after_epoch, after_seq, found_epoch, found_seq)<durable>
"""
_SIGNALS: Final = f"""
    CREATE TABLE IF NOT EXISTS signals (
        signal_id String,
        name String,
        customer_id String,
        event_id String,
        occurred_at_ms Int64,
        balance_nano Int64,
        numbers String,
        position Int64,
        {_FIRST_STAYS}
    ) ENGINE = ReplacingMergeTree(version) ORDER BY signal_id<durable>
"""

_REFUSAL_PAGES: Final = f"""
    CREATE TABLE IF NOT EXISTS refusal_pages (
        after String,
        entry String,
        hours_ms Array(Int64),
        customer_ids Array(String),
        models Array(String),
        reasons Array(String),
        counts Array(Int64),
        estimates_nano Array(Int64),
        position Int64,
        {_FIRST_STAYS}
    ) ENGINE = ReplacingMergeTree(version) ORDER BY after<durable>
"""
"""What was counted from one entry of the stream of refusals to another, in one row: it is there with its cursor
or not at all, and of two from the same entry one counts."""
_REFUSALS: Final = f"""
    CREATE VIEW IF NOT EXISTS refusals AS
    SELECT hour_ms, customer_id, model, reason, sum(number) AS count,
        toInt64(least(sum(toDecimal128(nano, 0)), toDecimal128({MOST_NANO}, 0))) AS estimated_nano
    FROM (
        SELECT hour_ms, customer_id, model, reason, number, nano FROM refusal_pages FINAL
        ARRAY JOIN hours_ms AS hour_ms, customer_ids AS customer_id, models AS model, reasons AS reason,
            counts AS number, estimates_nano AS nano
    )
    GROUP BY hour_ms, customer_id, model, reason
"""  # noqa: S608 - a number
_STATEMENTS: Final = """
    CREATE TABLE IF NOT EXISTS statements (
        customer_id String,
        period String,
        document String,
        sha256 String,
        closed_at_ms Int64,
        version UInt64 MATERIALIZED bitNot(toUInt64(closed_at_ms))
    ) ENGINE = ReplacingMergeTree(version) ORDER BY (customer_id, period)<durable>
"""
_BY_HOUR: Final = """
    CREATE VIEW IF NOT EXISTS usage_by_hour AS
    SELECT hour, customer_id, project_id, key_id, model,
        countIf(kind <> 'settle_late') AS requests,
        sum(amount) AS charged_nano,
        sum(cost) AS cost_nano,
        sum(amount - cost) AS margin_nano,
        sum(visitParamExtractInt(quantities, 'input')) AS input,
        sum(visitParamExtractInt(quantities, 'cache_read')) AS cache_read,
        sum(visitParamExtractInt(quantities, 'cache_write')
            + visitParamExtractInt(quantities, 'cache_write_1h')) AS cache_write,
        sum(visitParamExtractInt(quantities, 'output')) AS output,
        sum(visitParamExtractInt(quantities, 'reasoning')) AS reasoning
    FROM (
        SELECT toStartOfHour(toDateTime(intDiv(occurred_at_ms, 1000), 'UTC')) AS hour,
            customer_id, project_id, key_id, model, kind, amount_nano AS amount, cost_nano AS cost,
            if(kind = 'expire' AND event_id IN (
                SELECT replaceRegexpOne(event_id, ':settled_late$', ':expired')
                FROM events WHERE kind = 'settle_late'), '{}', usage) AS quantities
        FROM events FINAL WHERE kind IN ('settle', 'expire', 'settle_late')
    )
    GROUP BY hour, customer_id, project_id, key_id, model
"""
"""An expired reservation's late settlement has the quantities of both, so they are counted once."""
_BY_DAY: Final = """
    CREATE VIEW IF NOT EXISTS usage_by_day AS
    SELECT toDate(hour) AS day, customer_id, project_id, key_id, model,
        sum(requests) AS requests, sum(charged_nano) AS charged_nano, sum(cost_nano) AS cost_nano,
        sum(margin_nano) AS margin_nano, sum(input) AS input, sum(cache_read) AS cache_read,
        sum(cache_write) AS cache_write, sum(output) AS output, sum(reasoning) AS reasoning
    FROM usage_by_hour GROUP BY day, customer_id, project_id, key_id, model
"""

_STORE: Final = "CREATE VIEW IF NOT EXISTS store AS SELECT <id> AS store_id"
"""The id is in the view's definition: of two exporters that create it, one wins, and both read the same."""

MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        _STORE,
        _EVENTS,
        _CURSORS,
        _SINK_CURSORS,
        _DEAD_LETTERS,
        _ANOMALIES,
        _SIGNALS,
        _REFUSAL_PAGES,
        _REFUSALS,
        _STATEMENTS,
        _BY_HOUR,
        _BY_DAY,
    ),
)
_SYNCED: Final = " SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
"""So that what was inserted survives a crash of the server's machine."""
_REPEATS_KEPT: Final = ", non_replicated_deduplication_window = 1000"
"""How many inserts the server recognises by their tokens."""
VERSIONS: Final = (
    "CREATE TABLE IF NOT EXISTS migrations (version UInt32, applied_at_ms Int64)"
    " ENGINE = MergeTree ORDER BY version"
)


def missing(version: int, server: Server) -> list[str]:
    """The statements that bring a store of this version (0: without tables) up to date.

    Raises StoreTooNew.
    """
    if version > len(MIGRATIONS):
        raise StoreTooNew(f"the store has schema {version}, this release knows {len(MIGRATIONS)}")
    statements = [] if version else [VERSIONS]
    for number in range(version + 1, len(MIGRATIONS) + 1):
        statements += [_fitted(each, server) for each in MIGRATIONS[number - 1]]
        statements.append(
            f"INSERT INTO migrations (version, applied_at_ms) VALUES ({number}, {time.time_ns() // 10**6})"  # noqa: S608 - numbers
        )
    return statements


def _fitted(statement: str, server: Server) -> str:
    """A statement as this server takes it."""
    modern = server.modern
    parts = {
        "<label>": "LowCardinality(String)" if modern else "String",
        "<label or null>": "LowCardinality(Nullable(String))" if modern else "Nullable(String)",
        "<indexes>": _INDEXES if modern else "",
        "<durable>": _SYNCED if modern else "",
        "<durable and aware of repeats>": _SYNCED + _REPEATS_KEPT if modern else "",
        "<id>": literal(secrets.token_hex(16)),
    }
    for name, text in parts.items():
        statement = statement.replace(name, text)
    return statement
