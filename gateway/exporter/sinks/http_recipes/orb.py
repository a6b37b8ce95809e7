"""Orb: `POST /v1/ingest`.

It tells repeats by idempotency_key, and takes events of its grace period only, 12 hours by default. An answer
may name events that failed in `validation_failed`, with 200 (the others were taken) or with 400.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.exporter.sinks.billing import properties
from gateway.exporter.sinks.http_recipes.base import (
    Answer,
    Named,
    Recipe,
    Verdict,
    as_events,
    judge_by_status,
)


def _build(named: Named) -> dict[str, Any]:
    item = named.item
    return {
        "event_name": named.event_name,
        "timestamp": item.time,
        "idempotency_key": item.id,
        "external_customer_id": named.customer,
        "properties": properties(item),
    }


def _judge(answer: Answer, sent: Sequence[Mapping[str, Any]]) -> Verdict:
    wrong = answer.parsed().get("validation_failed")
    if not wrong:
        return judge_by_status(answer, sent)
    reasons = {each["idempotency_key"]: str(each.get("validation_errors")) for each in wrong}
    refused = {
        index: f"answered {answer.status}: {reasons[each['idempotency_key']]}"
        for index, each in enumerate(sent)
        if each["idempotency_key"] in reasons
    }
    if not refused:
        return judge_by_status(answer, sent)
    return Verdict(refused, undecided=not answer.ok)


ORB: Final = Recipe(
    path="/v1/ingest",
    most=100,
    build=_build,
    wrap=as_events,
    judge=_judge,
    probe="/v1/ping",
    max_replay_age_ms=11 * 3_600_000,
)
