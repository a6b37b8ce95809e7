"""What was turned away in a period, and why, from the refusals that the store has counted."""

from collections.abc import Callable, Mapping
from typing import Final

from gateway.domain.customers import is_shadow
from gateway.domain.refusals import HOUR_MS, RefusalHour
from gateway.domain.stores import EventStore
from gateway.operations.errors import OperationError
from gateway.operations.report import ReportRequest, day_of, hour_of
from gateway.operations.sheets import Column, Sheet

_READ: Final[Mapping[str, Callable[[RefusalHour], str]]] = {
    "customer": lambda hour: hour.customer_id,
    "model": lambda hour: hour.model,
    "reason": lambda hour: hour.reason,
    "day": lambda hour: day_of(hour.hour_ms // 86_400_000),
    "hour": lambda hour: hour_of(hour.hour_ms // 3_600_000),
}


def refusals_sheet(store: EventStore, request: ReportRequest) -> Sheet:
    """Refusals of the hours that the period touches, and the most that they could have cost.

    Raises OperationError.
    """
    unknown = [name for name in request.by if name not in _READ]
    if unknown:
        raise OperationError(
            f"refusals are not counted by {unknown[0]!r}. They are by: {', '.join(_READ)}"
        )
    readers = [_READ[name] for name in request.by]
    sums: dict[tuple[str, ...], tuple[int, int]] = {}
    since_ms = None if request.since_ms is None else request.since_ms // HOUR_MS * HOUR_MS
    for hour in store.refusals(since_ms, request.until_ms, request.customer_id):
        if request.customer_id is None and is_shadow(hour.customer_id):
            continue  # it ran
        key = tuple([read(hour) for read in readers])
        count, nano = sums.get(key, (0, 0))
        sums[key] = count + hour.count, nano + hour.estimated_nano
    columns = [Column("refused", "count"), Column("estimated", "credits")]
    return Sheet(
        [*(Column(name) for name in request.by), *columns],
        [[*labels, *both] for labels, both in sorted(sums.items())],
        [
            *("" for _ in request.by),
            sum(count for count, _ in sums.values()),
            sum(nano for _, nano in sums.values()),
        ],
    )
