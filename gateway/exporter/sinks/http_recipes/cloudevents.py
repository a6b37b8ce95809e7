"""CloudEvents 1.0 to any receiver (cloudevents.io: JSON event format, HTTP binding).

A call of one event is in structured mode, a call of several in batched mode. The receiver tells repeats by
`source` and `id`. 409 is taken as "I have it already".
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.exporter.sinks.billing import properties
from gateway.exporter.sinks.http_recipes.base import Answer, Named, Recipe, Verdict, judge_by_status


def build(named: Named) -> dict[str, Any]:
    """One event in the JSON format."""
    item = named.item
    return {
        "specversion": "1.0",
        "id": item.id,
        "source": named.source,
        "type": named.event_name,
        "subject": named.customer,
        "time": item.time,
        "datacontenttype": "application/json",
        "data": properties(item),
    }


def _judge(answer: Answer, sent: Sequence[Mapping[str, Any]]) -> Verdict:
    if answer.status == 409:
        return Verdict(duplicates=frozenset(range(len(sent))))
    return judge_by_status(answer, sent)


CLOUDEVENTS: Final = Recipe(
    path="",
    most=100,
    build=build,
    judge=_judge,
    content_type="application/cloudevents-batch+json",
    single="application/cloudevents+json",
)
