"""The questions of `PostgresStore`, as SQL. Parameters are psycopg's."""

from typing import Final

from gateway.domain.event_rows import COLUMNS

EVENTS: Final = """
    SELECT kind, event_id, shard, epoch, seq, occurred_at_ms, customer_id, amount_nano, balance_nano,
        estimated_amount_nano, cost_nano, allocations, usage, price_version, facts, stored_at_ms, position
    FROM events
"""
"""Columns in the order of Event's fields, then StoredEvent's."""

LATEST: Final = f"""{EVENTS}
    WHERE position > %(after)s AND (%(customer)s::text IS NULL OR customer_id = %(customer)s)
    ORDER BY position DESC LIMIT %(count)s
"""
BY_ID: Final = f"{EVENTS} WHERE event_id = %s"
BY_PREFIX: Final = f"""{EVENTS}
    WHERE event_id ~>=~ %(prefix)s AND event_id ~<~ %(end)s ORDER BY position DESC LIMIT 1
"""
BY_REQUEST: Final = f"{EVENTS} WHERE request_id = %s ORDER BY position"
BEYOND: Final = f"""
    {EVENTS} WHERE shard = %s AND (epoch, seq) > (%s, %s) ORDER BY epoch, seq LIMIT %s
"""

DEAD_LETTERS: Final = """
    SELECT shard, epoch, seq, event_id, reason, payload FROM dead_letters
    WHERE sink = %s ORDER BY position DESC LIMIT %s
"""
DEAD_LETTERS_BEYOND: Final = """
    SELECT shard, epoch, seq, event_id, reason, payload FROM dead_letters
    WHERE sink = '' AND shard = %s AND (epoch, seq) > (%s, %s) ORDER BY epoch, seq
"""
STATEMENT: Final = """
    SELECT customer_id, period, document, sha256, closed_at_ms FROM statements
    WHERE customer_id = %s AND period = %s
"""
LAST_STATEMENT: Final = """
    SELECT customer_id, period, document, sha256, closed_at_ms FROM statements
    WHERE customer_id = %(customer)s AND (%(before)s::text IS NULL OR period < %(before)s)
    ORDER BY period DESC LIMIT 1
"""
KEEP_STATEMENT: Final = """
    INSERT INTO statements VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
DEAD_LETTER_COUNTS: Final = "SELECT sink, count(*) FROM dead_letters GROUP BY sink"
REFUSALS: Final = """
    SELECT hour_ms, customer_id, model, reason, count, estimated_nano FROM refusals
    WHERE (%(since)s::bigint IS NULL OR hour_ms >= %(since)s)
        AND (%(until)s::bigint IS NULL OR hour_ms < %(until)s)
        AND (%(customer)s::text IS NULL OR customer_id = %(customer)s)
    ORDER BY hour_ms, customer_id COLLATE "C", model COLLATE "C", reason COLLATE "C"
"""
ANOMALIES: Final = """
    SELECT kind, shard, after_epoch, after_seq, found_epoch, found_seq FROM anomalies
    ORDER BY position DESC LIMIT %s
"""
SIGNALS: Final = """
    SELECT signal_id, name, customer_id, event_id, occurred_at_ms, balance_nano, numbers, state,
        attempts, ended_at_ms, reason
    FROM signals
    WHERE (%(state)s::text IS NULL OR state = %(state)s)
        AND (%(customer)s::text IS NULL OR customer_id = %(customer)s)
    ORDER BY position DESC LIMIT %(limit)s
"""
CURSOR: Final = "SELECT epoch, seq FROM cursors WHERE shard = %s"
CURSORS: Final = "SELECT shard, epoch, seq FROM cursors"
SINK_CURSORS: Final = "SELECT shard, epoch, seq FROM sink_cursors WHERE sink = %s"
SPANS: Final = """
    SELECT epoch, min(seq), max(seq), count(*) FROM (
        SELECT epoch, seq FROM events WHERE shard = %(shard)s
        UNION SELECT epoch, seq FROM dead_letters WHERE sink = '' AND shard = %(shard)s
    ) AS places GROUP BY epoch ORDER BY epoch
"""
TOTALS: Final = """
    SELECT customer_id, kind, sum(amount_nano)::bigint FROM events
    WHERE shard = %s AND (epoch, seq) <= (%s, %s) GROUP BY customer_id, kind
"""
AT_PLACES: Final = """
    SELECT seq, event_id, amount_nano FROM events
    WHERE shard = %s AND epoch = %s AND seq = ANY(%s::bigint[])
"""
KNOWN: Final = "SELECT event_id FROM events WHERE event_id = ANY(%s::text[])"
TWO_ENDS: Final = """
    SELECT one.event_id, other.event_id FROM events AS one JOIN events AS other
    ON other.event_id = rtrim(one.event_id, 'abcdefghijklmnopqrstuvwxyz_') || %s
    WHERE one.kind = %s
"""
LATE_WITHOUT_EXPIRY: Final = """
    SELECT late.event_id FROM events AS late WHERE late.kind = 'settle_late' AND NOT EXISTS (
        SELECT 1 FROM events
        WHERE event_id = rtrim(late.event_id, 'abcdefghijklmnopqrstuvwxyz_') || 'expired')
"""
_COLUMNS: Final = ", ".join(
    f"{name}::text" if name in ("usage", "allocations", "facts") else name for name in COLUMNS
)
ROWS: Final = f"""
    SELECT {_COLUMNS} FROM events
    WHERE (%(since)s::bigint IS NULL OR occurred_at_ms >= %(since)s)
        AND (%(until)s::bigint IS NULL OR occurred_at_ms < %(until)s)
        AND (%(customer)s::text IS NULL OR customer_id = %(customer)s)
        AND (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s))
    ORDER BY occurred_at_ms, shard, epoch, seq
"""  # noqa: S608 - names of columns
CHANGES: Final = f"""
    SELECT {_COLUMNS} FROM events
    WHERE kind IN ('grant', 'void', 'adjust', 'allowance', 'signals', 'account', 'audit')
        AND facts ->> 'actor' IS NOT NULL
        AND (%(since)s::bigint IS NULL OR occurred_at_ms >= %(since)s)
        AND (%(until)s::bigint IS NULL OR occurred_at_ms < %(until)s)
        AND (%(customer)s::text IS NULL OR customer_id = %(customer)s)
        AND (%(actor)s::text IS NULL OR facts ->> 'actor' = %(actor)s)
        AND (%(action)s::text IS NULL OR starts_with(facts ->> 'action' || '.', %(action)s || '.'))
        AND (occurred_at_ms, shard, epoch, seq)
            < (%(at)s::bigint, %(shard)s::bigint, %(epoch)s::bigint, %(seq)s::bigint)
    ORDER BY occurred_at_ms DESC, shard DESC, epoch DESC, seq DESC LIMIT %(limit)s
"""  # noqa: S608 - names of columns
"""The kinds of `CHANGE_KINDS`, written as in the index."""
CHARGES: Final = """
    SELECT coalesce(sum(amount_nano) FILTER (WHERE kind IN ('settle', 'expire', 'settle_late')), 0)::bigint,
        coalesce(max(position), 0), coalesce(max(occurred_at_ms), 0),
        (SELECT coalesce(max(position), 0) FROM events)
    FROM events WHERE customer_id = %s AND occurred_at_ms >= %s AND position > %s
"""
"""Evaluated on the index (customer_id, occurred_at_ms, position): only rows that are new are fetched."""
CHARGED: Final = """
    SELECT amount_nano, event_id FROM events WHERE event_id = ANY(%s::text[])
    ORDER BY occurred_at_ms, epoch, seq
"""
USES: Final = """
    SELECT customer_id, model, moment, price_version, usage, amount_nano
        - coalesce((SELECT sum(amount_nano) FROM events WHERE kind = 'adjust'
            AND event_id IN (ended.of || 'repriced', ended.of || 'repriced_late')), 0)::bigint,
        service_tier
"""
USED: Final = """
    FROM (
        SELECT ends.of, customer_id, price_version, amount_nano + coalesce(late_nano, 0) AS amount_nano,
            coalesce(model, '') AS model, coalesce(late_usage, usage) AS usage,
            coalesce(late_facts ->> 'service_tier', facts ->> 'service_tier', 'default') AS service_tier,
            CASE WHEN length(ends.of) = 33 AND ends.of ~ '^[0-9a-fA-F]{12}'
                    AND ('x0000' || left(ends.of, 12))::bit(64)::bigint BETWEEN 1 AND occurred_at_ms - 1
                THEN ('x0000' || left(ends.of, 12))::bit(64)::bigint
                ELSE occurred_at_ms END AS moment
        FROM (
            SELECT *, rtrim(event_id, 'abcdefghijklmnopqrstuvwxyz_') AS of FROM events
            WHERE kind IN ('settle', 'expire') AND occurred_at_ms >= %(since)s
                AND (%(customer)s::text IS NULL OR customer_id = %(customer)s)
        ) AS ends LEFT JOIN (
            SELECT event_id AS late_id, amount_nano AS late_nano, usage AS late_usage, facts AS late_facts
            FROM events WHERE kind = 'settle_late'
        ) AS late ON ends.kind = 'expire' AND late_id = ends.of || 'settled_late'
    ) AS ended
    WHERE moment >= %(since)s AND moment < %(until)s
"""
"""Of an expired reservation what its late settle said, once, in the expiry's place. When a reservation was
made is what its id says (`gateway.domain.history.reserved_at_ms`); here the id ends in its colon."""
IN_ORDER: Final = """
    ORDER BY customer_id COLLATE "C", model COLLATE "C", service_tier COLLATE "C", moment, of COLLATE "C"
"""
