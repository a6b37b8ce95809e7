"""One customer's usage, summed up by ClickHouse (`gateway/domain/usage_sums.py`).

Servers of 2018 cannot list the members of a JSON object: the units are named.
"""

# ruff: noqa: S608 - every value is an integer or has passed `literal`

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.domain.usage import UNIT_NUMBERS, without_tier
from gateway.domain.usage_sums import UsageGroup, UsageQuestion, UsageSum, usage_sums
from gateway.exporter.sinks.clickhouse_protocol import literal
from gateway.exporter.sinks.clickhouse_reservations import STEM

_COLUMNS: Final[Mapping[UsageGroup, str]] = {
    "model": "model",
    "key": "key_id",
    "project": "project_id",
}
_UNITS: Final = tuple(dict.fromkeys(map(without_tier, UNIT_NUMBERS)))


def usage_by(ask: Callable[[str], list[dict[str, Any]]], question: UsageQuestion) -> list[UsageSum]:
    """Sum up. ask: runs a statement"""
    totals: dict[str, list[int]] = {}
    quantities: dict[tuple[str, str], int] = {}
    for statement in (_used(question), _said_before(question), _corrected(question)):
        for line in ask(statement):
            label = line["label"]
            sums = totals.setdefault(label, [0, 0, 0])
            for at, name in enumerate(("requests", "charged", "corrected")):
                sums[at] += line.get(name, 0)
            for unit in _UNITS:
                at_unit = label, unit
                quantities[at_unit] = quantities.get(at_unit, 0) + line.get(f"sum_{unit}", 0)
    return usage_sums(
        question,
        [
            (label, requests, charged, corrected)
            for label, (requests, charged, corrected) in totals.items()
        ],
        [(label, unit, quantity) for (label, unit), quantity in quantities.items()],
    )


def _label(by: UsageGroup) -> str:
    if by == "day":
        return "toString(intDiv(occurred_at_ms, 86400000))"
    return f"ifNull({_COLUMNS[by]}, '')"


def _range(question: UsageQuestion) -> str:
    return (
        f"customer_id = {literal(question.customer_id)}"
        f" AND occurred_at_ms >= {question.since_ms} AND occurred_at_ms < {question.until_ms}"
    )


def _quantities(sign: str) -> str:
    return ", ".join(
        f"{sign}sum(visitParamExtractInt(usage, '{unit}')) AS sum_{unit}" for unit in _UNITS
    )


def _used(question: UsageQuestion) -> str:
    """Requests, and what every record says."""
    return f"""
        SELECT {_label(question.by)} AS label, countIf(kind <> 'settle_late') AS requests,
            sum(amount_nano) AS charged, {_quantities("")}
        FROM events FINAL
        WHERE {_range(question)} AND kind IN ('settle', 'expire', 'settle_late') GROUP BY label
    """


def _said_before(question: UsageQuestion) -> str:
    """What expiries have counted that late settlements say again, to be taken off."""
    whose = f"customer_id = {literal(question.customer_id)}"
    late = f"{_range(question)} AND kind = 'settle_late'"
    return f"""
        SELECT label, {_quantities("-")} FROM (
            SELECT {_label(question.by)} AS label, {STEM} AS stem FROM events FINAL WHERE {late}
        ) AS late ANY INNER JOIN (
            SELECT {STEM} AS stem, usage FROM events FINAL WHERE {whose} AND kind = 'expire'
                AND stem IN (SELECT {STEM} FROM events WHERE {late})
        ) AS expiry USING (stem) GROUP BY label
    """


def _corrected(question: UsageQuestion) -> str:
    """Refunds and adjustments, under the labels of the records that they correct."""
    adjusts = f"{_range(question)} AND kind = 'adjust'"
    if question.by == "day":
        return f"""
            SELECT {_label("day")} AS label, -sum(amount_nano) AS corrected
            FROM events FINAL WHERE {adjusts} GROUP BY label
        """
    whose = f"customer_id = {literal(question.customer_id)}"
    corrects = "visitParamExtractString(facts, 'corrects')"
    return f"""
        SELECT if(found = 1, its_label, own_label) AS label, -sum(amount) AS corrected FROM (
            SELECT {_label(question.by)} AS own_label, {corrects} AS corrected_id, amount_nano AS amount
            FROM events FINAL WHERE {adjusts}
        ) AS correction ANY LEFT JOIN (
            SELECT event_id AS corrected_id, {_label(question.by)} AS its_label, 1 AS found
            FROM events FINAL WHERE {whose}
                AND event_id IN (SELECT {corrects} FROM events WHERE {adjusts})
        ) AS corrected USING (corrected_id) GROUP BY label
    """
