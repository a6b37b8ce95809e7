"""One customer's usage, summed up by SQLite (`gateway/domain/usage_sums.py`)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from gateway.domain.usage_sums import UsageGroup, UsageQuestion, UsageSum, sums_of_lines

_OUTCOME_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz_"
_LABELS: Final[Mapping[UsageGroup, str]] = {
    "day": "CAST(occurred_at_ms / 86400000 AS TEXT)",
    "model": "coalesce(json_extract(labels, '$.model'), '')",
    "key": "coalesce(json_extract(labels, '$.key_id'), '')",
    "project": "coalesce(json_extract(labels, '$.project_id'), '')",
}
_COUNTED: Final = """
    WITH found AS (
        SELECT kind, event_id, occurred_at_ms, amount_nano, usage, CASE WHEN kind = 'adjust'
            THEN coalesce((SELECT other.facts FROM events AS other
                WHERE other.event_id = json_extract(events.facts, '$.corrects')), facts)
            ELSE facts END AS labels
        FROM events WHERE customer_id = :customer AND occurred_at_ms >= :since AND occurred_at_ms < :until
            AND kind IN ('settle', 'expire', 'settle_late', 'adjust')
    ), counted AS MATERIALIZED (
        SELECT {label} AS label, kind, event_id, amount_nano, usage FROM found
    )
    SELECT label, NULL, count(*) FILTER (WHERE kind IN ('settle', 'expire')),
        coalesce(sum(amount_nano) FILTER (WHERE kind <> 'adjust'), 0),
        -coalesce(sum(amount_nano) FILTER (WHERE kind = 'adjust'), 0)
    FROM counted GROUP BY label
    UNION ALL SELECT label, key, sum(sign * value), 0, 0 FROM (
        SELECT label, usage, 1 AS sign FROM counted WHERE kind <> 'adjust'
        UNION ALL SELECT label, expiry.usage, -1 FROM counted JOIN events AS expiry
            ON expiry.event_id = rtrim(counted.event_id, :letters) || 'expired'
            WHERE counted.kind = 'settle_late'
    ) AS used, json_each(used.usage) GROUP BY label, key
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
        "letters": _OUTCOME_LETTERS,
    }
    return sums_of_lines(question, ask(_COUNTED.format(label=_LABELS[question.by]), asked))
