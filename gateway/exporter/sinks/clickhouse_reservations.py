"""Questions to ClickHouse about what became of reservations, as text: of the reader.

Every value in a statement is an integer or has passed `literal`.
"""

# ruff: noqa: S608 - see above

from typing import Final

from gateway.exporter.sinks.clickhouse_protocol import Server, literal

STEM: Final = "replaceRegexpOne(event_id, '[a-z_]*$', '')"
"""Of an event id, what stands before the outcome, the colon included."""
CONTRADICTIONS: Final = f"""
    SELECT stem, groupArray(event_id) AS ids, groupArray(kind) AS kinds FROM (
        SELECT {STEM} AS stem, event_id, kind FROM events FINAL
        WHERE kind IN ('settle', 'release', 'expire', 'settle_late')
    ) GROUP BY stem
    HAVING has(kinds, 'release') AND (has(ids, concat(stem, 'settled')) OR has(ids, concat(stem, 'expired')))
        OR has(kinds, 'expire') AND has(ids, concat(stem, 'settled'))
        OR has(kinds, 'settle_late') AND NOT has(ids, concat(stem, 'expired'))
"""
"""Reservations with more than one end, or a late settlement without an expiry before it."""
TWICE: Final = """
    SELECT event_id, count() AS number FROM events FINAL GROUP BY event_id HAVING number > 1
"""
"""Ids that are stored at more than one place."""


def _used(server: Server, since_ms: int, until_ms: int, customer_id: str | None) -> str:
    whose = "" if customer_id is None else f"AND customer_id = {literal(customer_id)}"
    modern = "JSONExtractString" in server.features
    tier = f"{'JSONExtractString' if modern else 'visitParamExtractString'}(facts, 'service_tier')"
    rid = "replaceRegexpOne(stem, ':+$', '')"
    said = f"reinterpretAsInt64(reverse(unhex(substring({rid}, 1, 12))))"
    return f"""
        FROM (
            SELECT *, if(length({rid}) = 32 AND match({rid}, '^[0-9A-Fa-f]{{12}}')
                AND {said} > 0 AND {said} < ended_ms, {said}, ended_ms) AS moment
            FROM (
                SELECT {STEM} AS stem, kind AS ending, customer_id AS customer, ifNull(model, '') AS model_name,
                    price_version AS version_of_price, usage AS own_usage, amount_nano AS amount,
                    occurred_at_ms AS ended_ms, {tier} AS own_tier
                FROM events FINAL
                WHERE kind IN ('settle', 'expire') AND occurred_at_ms >= {since_ms} {whose}
            )
        ) AS used
        ANY LEFT JOIN (
            SELECT stem, anyIf(usage, kind = 'settle_late') AS late_usage,
                anyIf(own_tier, kind = 'settle_late') AS late_tier,
                sumIf(amount_nano, kind = 'settle_late') AS late_amount,
                sumIf(amount_nano, kind = 'adjust') AS credited
            FROM (
                SELECT {STEM} AS stem, kind, usage, amount_nano, {tier} AS own_tier
                FROM events FINAL WHERE kind = 'settle_late' AND event_id = concat(stem, 'settled_late')
                    OR kind = 'adjust' AND (event_id = concat(stem, 'repriced')
                        OR event_id = concat(stem, 'repriced_late'))
            ) GROUP BY stem
        ) AS later USING (stem)
        WHERE moment >= {since_ms} AND moment < {until_ms}
    """


def past_uses(server: Server, since_ms: int, until_ms: int, customer_id: str | None) -> str:
    """One line a use."""
    return f"""
        SELECT customer, model_name, moment, version_of_price,
            if(ending = 'expire' AND late_usage <> '', late_usage, own_usage) AS quantities,
            amount + if(ending = 'expire', late_amount, 0) - credited AS charged,
            multiIf(ending = 'expire' AND late_tier <> '', late_tier, own_tier <> '', own_tier, 'default')
                AS service_tier
        {_used(server, since_ms, until_ms, customer_id)}
        ORDER BY customer, model_name, service_tier, moment, stem
    """


def count_past_uses(server: Server, since_ms: int, until_ms: int, customer_id: str | None) -> str:
    """One line: their number."""
    return f"SELECT count() AS number {_used(server, since_ms, until_ms, customer_id)}"
