"""The embedded store's tables, as a list of migrations. Append; never change one that was released.

Amounts are integers of nano-credits, times Unix ms, lists and maps JSON text. `position`
is the order of arrival (SQLite's rowid).
"""

import sqlite3
import time
from collections.abc import Sequence
from typing import Any, Final

from gateway.domain.event_rows import COLUMNS, EventRow
from gateway.exporter.sink import StoreTooNew


def _usage_view(period: str, form: str) -> str:
    """What was used and charged in each hour or day, UTC. An expiry whose request settled late counts with
    what that one used."""
    counted = {
        name: f"json_extract(quantities, '$.{name}')"
        for name in ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")
    }
    units = {name: f"coalesce({value}, 0)" for name, value in counted.items()}
    units["cache_write"] += " + " + units.pop("cache_write_1h")
    sums = ", ".join(f"sum({value}) AS {name}" for name, value in units.items())
    return f"""
    CREATE VIEW usage_by_{period} AS
        SELECT strftime('{form}', occurred_at_ms / 1000, 'unixepoch') AS {period},
            customer_id, project_id, key_id, model, count(*) FILTER (WHERE kind <> 'settle_late') AS requests,
            sum(amount_nano) AS charged_nano, sum(cost_nano) AS cost_nano,
            sum(amount_nano - cost_nano) AS margin_nano, {sums}
        FROM (
            SELECT *, CASE WHEN kind = 'expire' AND EXISTS (SELECT 1 FROM events AS late
                WHERE late.event_id = rtrim(event_rows.event_id, 'expired') || 'settled_late')
                THEN '{{}}' ELSE usage END AS quantities
            FROM event_rows WHERE kind IN ('settle', 'expire', 'settle_late')
        ) GROUP BY 1, 2, 3, 4, 5
    """  # noqa: S608 - names


OF_CHANGES: Final = (
    "kind IN ('grant', 'void', 'adjust', 'allowance', 'signals', 'account', 'audit')"
)
"""Events of `CHANGE_KINDS`; written the same in the index and in questions, or SQLite does not use it."""


MIGRATIONS: Final = (
    """
    CREATE TABLE events (
        position INTEGER PRIMARY KEY,
        event_id TEXT NOT NULL UNIQUE,
        shard INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        kind TEXT NOT NULL,
        occurred_at_ms INTEGER NOT NULL,
        stored_at_ms INTEGER NOT NULL,
        customer_id TEXT NOT NULL,
        request_id TEXT,
        amount_nano INTEGER NOT NULL,
        estimated_amount_nano INTEGER NOT NULL,
        cost_nano INTEGER,
        balance_nano INTEGER NOT NULL,
        price_version TEXT,
        usage TEXT NOT NULL,
        allocations TEXT NOT NULL,
        facts TEXT NOT NULL,
        UNIQUE (shard, epoch, seq)
    );
    CREATE INDEX events_by_request ON events (request_id) WHERE request_id IS NOT NULL;
    CREATE INDEX events_by_customer ON events (customer_id, occurred_at_ms);
    CREATE TABLE cursors (
        shard INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL
    );
    CREATE TABLE dead_letters (
        position INTEGER PRIMARY KEY,
        shard INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        event_id TEXT,
        reason TEXT NOT NULL,
        payload BLOB NOT NULL,
        noticed_at_ms INTEGER NOT NULL
    );
    CREATE INDEX dead_letters_by_place ON dead_letters (shard, epoch, seq);
    CREATE TABLE anomalies (
        position INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        shard INTEGER NOT NULL,
        after_epoch INTEGER NOT NULL,
        after_seq INTEGER NOT NULL,
        found_epoch INTEGER NOT NULL,
        found_seq INTEGER NOT NULL,
        noticed_at_ms INTEGER NOT NULL,
        UNIQUE (kind, shard, after_epoch, after_seq, found_epoch, found_seq)
    );
    """,
    """
    CREATE TABLE signals (
        position INTEGER PRIMARY KEY,
        signal_id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        customer_id TEXT NOT NULL,
        event_id TEXT NOT NULL,
        occurred_at_ms INTEGER NOT NULL,
        balance_nano INTEGER NOT NULL,
        numbers TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'waiting'
            CHECK (state IN ('waiting', 'delivered', 'dead')),
        attempts INTEGER NOT NULL DEFAULT 0,
        next_attempt_at_ms INTEGER NOT NULL DEFAULT 0,
        waiting_since_ms INTEGER NOT NULL,
        ended_at_ms INTEGER,
        reason TEXT
    );
    CREATE INDEX signals_waiting ON signals (customer_id, position) WHERE state = 'waiting';
    """,
    """
    CREATE TABLE store (store_id TEXT NOT NULL);
    INSERT INTO store VALUES (lower(hex(randomblob(16))));
    CREATE TABLE sink_cursors (
        sink TEXT NOT NULL,
        shard INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (sink, shard)
    );
    ALTER TABLE dead_letters ADD COLUMN sink TEXT NOT NULL DEFAULT '';
    CREATE VIEW event_rows AS
        SELECT event_id, shard, epoch, seq, kind, occurred_at_ms, customer_id,
            json_extract(facts, '$.project_id') AS project_id, json_extract(facts, '$.key_id') AS key_id, request_id,
            json_extract(facts, '$.route') AS route, json_extract(facts, '$.model') AS model,
            json_extract(facts, '$.upstream') AS upstream, json_extract(facts, '$.livemode') AS livemode, price_version,
            amount_nano, estimated_amount_nano, cost_nano, balance_nano, usage, allocations, facts
        FROM events;
    """,
    """
    CREATE TABLE refusals (
        hour_ms INTEGER NOT NULL,
        customer_id TEXT NOT NULL,
        model TEXT NOT NULL,
        reason TEXT NOT NULL,
        count INTEGER NOT NULL,
        estimated_nano INTEGER NOT NULL,
        PRIMARY KEY (hour_ms, customer_id, model, reason)
    ) WITHOUT ROWID;
    CREATE TABLE refusal_cursor (entry TEXT NOT NULL);
    INSERT INTO refusal_cursor VALUES ('0-0');
    """,
    _usage_view("hour", "%Y-%m-%dT%H:00:00Z") + ";" + _usage_view("day", "%Y-%m-%d"),
    """
    CREATE TABLE statements (
        customer_id TEXT NOT NULL,
        period TEXT NOT NULL,
        document TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        closed_at_ms INTEGER NOT NULL,
        PRIMARY KEY (customer_id, period)
    );
    """,
    f"CREATE INDEX events_of_changes ON events (occurred_at_ms, shard, epoch, seq) WHERE {OF_CHANGES}",
)


_LIVEMODE: Final = COLUMNS.index("livemode")


def row_from(values: Sequence[Any]) -> EventRow:
    """A row of the view `event_rows`: SQLite has no booleans."""
    livemode = None if values[_LIVEMODE] is None else bool(values[_LIVEMODE])
    return EventRow._make((*values[:_LIVEMODE], livemode, *values[_LIVEMODE + 1 :]))


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the store to this release's schema in one transaction: a reader sees all tables or none.

    Raises StoreTooNew.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations"
        " (version INTEGER PRIMARY KEY, applied_at_ms INTEGER NOT NULL)"
    )
    ((version,),) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations")
    if version > len(MIGRATIONS):
        raise StoreTooNew(f"the store has schema {version}, this release knows {len(MIGRATIONS)}")
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(version + 1, len(MIGRATIONS) + 1):
            for statement in MIGRATIONS[number - 1].split(";"):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations VALUES (?, ?)", (number, int(time.time() * 1000))
            )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
