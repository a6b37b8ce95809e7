"""The tables in Postgres, as a list of migrations. Append; never change one that was released.

Amounts are integers of nano-credits, times Unix ms, lists and maps jsonb. `position` is the order of arrival.
No name is qualified: every connection has the configured schema as its search path.
"""

import time
from typing import Final

from asyncpg import Connection, Record

from gateway.domain.event_rows import COLUMNS
from gateway.exporter.sink import StoreTooNew

_TYPES: Final = {
    "shard": "integer",
    "epoch": "bigint",
    "seq": "bigint",
    "occurred_at_ms": "bigint",
    "livemode": "boolean",
    "amount_nano": "bigint",
    "estimated_amount_nano": "bigint",
    "cost_nano": "bigint",
    "balance_nano": "bigint",
    "usage": "jsonb",
    "allocations": "jsonb",
    "facts": "jsonb",
}
"""Of the columns that are not text."""

STAGING: Final = (
    "CREATE TEMPORARY TABLE staging ("
    + ", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in COLUMNS)
    + ") ON COMMIT DELETE ROWS"
)
"""Where a batch is copied before it is inserted; each connection has its own, and each batch begins
with an empty one."""

_HOUR: Final = "to_timestamp(3600 * (occurred_at_ms / 3600000))"
_DAY: Final = "(to_timestamp(86400 * (occurred_at_ms / 86400000)) AT TIME ZONE 'UTC')::date"
"""Start of an event's hour, and its day, both UTC. Indexed as they are written here."""
_COUNTED: Final = {
    "input": ["input"],
    "cache_read": ["cache_read"],
    "cache_write": ["cache_write", "cache_write_1h"],
    "output": ["output"],
    "reasoning": ["reasoning"],
}
"""Column of the views → units in it."""


def _usage_view(period: str, start: str) -> str:
    """What was used and charged in each hour or day. An expiry whose request settled late counts with
    what that one used."""
    units = "".join(
        f", {_total(' + '.join(_quantity(unit) for unit in counted))} AS {name}"
        for name, counted in _COUNTED.items()
    )
    return f"""
    CREATE VIEW usage_by_{period} AS
        SELECT {start} AS {period}, customer_id, project_id, key_id, model,
            count(*) FILTER (WHERE kind <> 'settle_late') AS requests,
            {_total("amount_nano")} AS charged_nano, {_total("cost_nano")} AS cost_nano,
            {_total("amount_nano - cost_nano")} AS margin_nano{units}
        FROM events CROSS JOIN LATERAL (
            SELECT CASE WHEN kind = 'expire' AND EXISTS (SELECT 1 FROM events AS late
                WHERE late.event_id = regexp_replace(events.event_id, 'expired$', 'settled_late'))
                THEN '{{}}'::jsonb ELSE usage END AS quantities
            OFFSET 0) AS used  -- once for each row, not once for each unit
        WHERE kind IN ('settle', 'expire', 'settle_late')
        GROUP BY 1, 2, 3, 4, 5;
    """  # noqa: S608 - names


def _quantity(unit: str) -> str:
    return f"coalesce((quantities ->> '{unit}')::bigint, 0)"


def _total(expression: str) -> str:
    return f"sum({expression})::bigint"


MIGRATIONS: Final = (
    f"""
    CREATE TABLE store (store_id text NOT NULL);
    INSERT INTO store VALUES (replace(gen_random_uuid()::text, '-', ''));
    CREATE TABLE events (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_id text NOT NULL,
        shard integer NOT NULL,
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        kind text NOT NULL,
        occurred_at_ms bigint NOT NULL,
        stored_at_ms bigint NOT NULL,
        customer_id text NOT NULL,
        project_id text,
        key_id text,
        request_id text,
        route text,
        model text,
        upstream text,
        livemode boolean,
        price_version text,
        amount_nano bigint NOT NULL,
        estimated_amount_nano bigint NOT NULL,
        cost_nano bigint,
        balance_nano bigint NOT NULL,
        usage jsonb NOT NULL,
        allocations jsonb NOT NULL,
        facts jsonb NOT NULL,
        UNIQUE (shard, epoch, seq)
    );
    -- By bytes: found by prefix, too, and compared without the database's language.
    CREATE UNIQUE INDEX events_by_id ON events (event_id text_pattern_ops);
    CREATE INDEX events_by_request ON events (request_id) WHERE request_id IS NOT NULL;
    CREATE INDEX events_by_customer ON events (customer_id, occurred_at_ms, position);
    CREATE INDEX events_by_time ON events USING brin (occurred_at_ms, ({_HOUR}), ({_DAY}))
        WITH (pages_per_range = 32, autosummarize = on);
    CREATE TABLE cursors (
        shard integer PRIMARY KEY,
        epoch bigint NOT NULL,
        seq bigint NOT NULL
    );
    CREATE TABLE sink_cursors (
        sink text NOT NULL,
        shard integer NOT NULL,
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        PRIMARY KEY (sink, shard)
    );
    CREATE TABLE dead_letters (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        shard integer NOT NULL,
        epoch bigint NOT NULL,
        seq bigint NOT NULL,
        event_id text,
        reason text NOT NULL,
        payload bytea NOT NULL,
        noticed_at_ms bigint NOT NULL,
        sink text NOT NULL DEFAULT ''
    );
    CREATE UNIQUE INDEX dead_letters_by_place
        ON dead_letters (shard, epoch, seq, sink, coalesce(event_id, ''));
    CREATE TABLE anomalies (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind text NOT NULL,
        shard integer NOT NULL,
        after_epoch bigint NOT NULL,
        after_seq bigint NOT NULL,
        found_epoch bigint NOT NULL,
        found_seq bigint NOT NULL,
        noticed_at_ms bigint NOT NULL,
        UNIQUE (kind, shard, after_epoch, after_seq, found_epoch, found_seq)
    );
    CREATE TABLE signals (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        signal_id text NOT NULL UNIQUE,
        name text NOT NULL,
        customer_id text NOT NULL,
        event_id text NOT NULL,
        occurred_at_ms bigint NOT NULL,
        balance_nano bigint NOT NULL,
        numbers jsonb NOT NULL,
        state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'dead')),
        attempts integer NOT NULL DEFAULT 0,
        next_attempt_at_ms bigint NOT NULL DEFAULT 0,
        waiting_since_ms bigint NOT NULL,
        ended_at_ms bigint,
        reason text
    );
    CREATE INDEX signals_waiting ON signals (customer_id, position) WHERE state = 'waiting';
    """,  # noqa: S608 - no value
    _usage_view("hour", _HOUR) + _usage_view("day", _DAY),
    """
    CREATE TABLE refusals (
        hour_ms bigint NOT NULL,
        customer_id text NOT NULL,
        model text NOT NULL,
        reason text NOT NULL,
        count bigint NOT NULL,
        estimated_nano bigint NOT NULL,
        PRIMARY KEY (hour_ms, customer_id, model, reason)
    );
    CREATE TABLE refusal_cursor (entry text NOT NULL);
    INSERT INTO refusal_cursor VALUES ('0-0');
    """,
    """
    CREATE TABLE statements (
        customer_id text NOT NULL,
        period text NOT NULL,
        document text NOT NULL,
        sha256 text NOT NULL,
        closed_at_ms bigint NOT NULL,
        PRIMARY KEY (customer_id, period)
    );
    """,
    """
    CREATE INDEX events_of_changes ON events (occurred_at_ms, shard, epoch, seq)
        WHERE kind IN ('grant', 'void', 'adjust', 'allowance', 'signals', 'account', 'audit');
    """,
)


async def migrate(connection: "Connection[Record]", schema: str) -> None:
    """Bring the store to this release's schema, all of it in one transaction.

    Exporters that start at the same time wait for each other; one that has nothing to do takes no lock and
    needs no right to create. Raises StoreTooNew, asyncpg.PostgresError.
    """
    if await _version(connection) == len(MIGRATIONS):
        return
    async with connection.transaction():
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('creditgate:' || $1, 0))", schema
        )
        if not await connection.fetchval(
            "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)", schema
        ):
            await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
        version = await _version(connection)
        if version is None:
            await connection.execute(
                "CREATE TABLE migrations (version integer PRIMARY KEY, applied_at_ms bigint NOT NULL)"
            )
        for number in range((version or 0) + 1, len(MIGRATIONS) + 1):
            await connection.execute(MIGRATIONS[number - 1])
            await connection.execute(
                "INSERT INTO migrations VALUES ($1, $2)", number, time.time_ns() // 1_000_000
            )


async def _version(connection: "Connection[Record]") -> int | None:
    """The newest migration that was applied; None without tables. Raises StoreTooNew."""
    if await connection.fetchval("SELECT to_regclass('migrations')") is None:
        return None
    version: int = await connection.fetchval("SELECT coalesce(max(version), 0) FROM migrations")
    if version > len(MIGRATIONS):
        raise StoreTooNew(f"the store has schema {version}, this release knows {len(MIGRATIONS)}")
    return version


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
