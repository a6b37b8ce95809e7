"""One customer's usage, summed up by Postgres (`gateway/domain/usage_sums.py`)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from gateway.domain.usage_sums import UsageGroup, UsageQuestion, UsageSum, sums_of_lines

_LABELS: Final[Mapping[UsageGroup, str]] = {
    "day": "(found.occurred_at_ms / 86400000)::text",
    "model": "coalesce(labels.model, '')",
    "key": "coalesce(labels.key_id, '')",
    "project": "coalesce(labels.project_id, '')",
}
_COUNTED: Final = """
    WITH counted AS MATERIALIZED (
        SELECT {label} AS label, found.kind, found.event_id, found.amount_nano, found.usage
        FROM (
            SELECT * FROM events
            WHERE customer_id = %(customer)s AND occurred_at_ms >= %(since)s AND occurred_at_ms < %(until)s
                AND kind IN ('settle', 'expire', 'settle_late', 'adjust')
        ) AS found LEFT JOIN events AS other
            ON found.kind = 'adjust' AND other.event_id = found.facts ->> 'corrects'
        CROSS JOIN LATERAL (SELECT
            CASE WHEN other.event_id IS NULL THEN found.model ELSE other.model END AS model,
            CASE WHEN other.event_id IS NULL THEN found.key_id ELSE other.key_id END AS key_id,
            CASE WHEN other.event_id IS NULL THEN found.project_id ELSE other.project_id END AS project_id
        ) AS labels
    )
    SELECT label, NULL, count(*) FILTER (WHERE kind IN ('settle', 'expire')),
        coalesce(sum(amount_nano) FILTER (WHERE kind <> 'adjust'), 0)::bigint,
        (-coalesce(sum(amount_nano) FILTER (WHERE kind = 'adjust'), 0))::bigint
    FROM counted GROUP BY label
    UNION ALL SELECT label, key, sum(sign * value::bigint)::bigint, 0, 0 FROM (
        SELECT label, usage, 1 AS sign FROM counted WHERE kind <> 'adjust'
        UNION ALL SELECT label, expiry.usage, -1 FROM counted JOIN events AS expiry
            ON expiry.event_id = rtrim(counted.event_id, 'abcdefghijklmnopqrstuvwxyz_') || 'expired'
            WHERE counted.kind = 'settle_late'
    ) AS used CROSS JOIN LATERAL jsonb_each_text(used.usage) GROUP BY label, key
"""
"""One statement, so that its answer belongs to one moment. A line without a unit has the totals."""


def usage_by(
    ask: Callable[[str, Mapping[str, Any]], Iterable[tuple[Any, ...]]], question: UsageQuestion
) -> list[UsageSum]:
    """Sum up. ask: runs a statement"""
    asked = {
        "customer": question.customer_id,
        "since": question.since_ms,
        "until": question.until_ms,
    }
    return sums_of_lines(question, ask(_COUNTED.format(label=_LABELS[question.by]), asked))
