"""Lago: `POST /api/v1/events/batch`, at most 100.

A transaction_id is taken once, for any time. A 422 rolls the complete batch back and names the items that are
wrong by their index: those drop out, the others are sent again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.domain.money import NANO_PER_CREDIT
from gateway.exporter.sinks.billing import AMOUNT, properties
from gateway.exporter.sinks.http_recipes.base import (
    Answer,
    Named,
    Recipe,
    Verdict,
    as_events,
    judge_by_status,
)

_NANO_PER_CENT: Final = NANO_PER_CREDIT // 100


def _build(named: Named) -> dict[str, Any]:
    item = named.item
    built = {
        "transaction_id": item.id,
        "external_subscription_id": named.customer,
        "code": named.event_name,
        "timestamp": item.unix_s,
        "properties": properties(item),
    }
    if item.unit in (None, AMOUNT):
        built["precise_total_amount_cents"] = _cents(item.row.amount_nano)
    return built


def _cents(nano: int) -> str:
    """Hundredths of a credit, exact."""
    whole, rest = divmod(abs(nano), _NANO_PER_CENT)
    return f"{'-' * (nano < 0)}{whole}.{rest:07d}"


def _judge(answer: Answer, sent: Sequence[Mapping[str, Any]]) -> Verdict:
    details = answer.parsed().get("error_details")
    if answer.status != 422 or not isinstance(details, dict):
        return judge_by_status(answer, sent)
    refused, duplicates = {}, set()
    for index, errors in details.items():
        if not (index.isdecimal() and int(index) < len(sent)):
            return judge_by_status(answer, sent)
        if errors == {"transaction_id": ["value_already_exist"]}:
            duplicates.add(int(index))
        else:
            refused[int(index)] = f"answered 422: {errors}"
    if not refused and not duplicates:
        return judge_by_status(answer, sent)
    return Verdict(refused, frozenset(duplicates), undecided=True)


LAGO: Final = Recipe(
    path="/api/v1/events/batch",
    most=100,
    build=_build,
    wrap=as_events,
    judge=_judge,
    probe="/api/v1/billable_metrics?per_page=1",
)
