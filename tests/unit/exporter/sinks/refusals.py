"""What every store must do with refusals. Its test file derives from this class and supplies the fixtures.

`sink` gives a fresh store that is not open; `access` reads the same store.
"""

import pytest

from gateway.domain.refusals import HOUR_MS, MOST_NANO, NO_ENTRY, RefusalHour
from gateway.domain.stores import StoreAccess
from gateway.exporter.sink import SinkUnavailable, Store

NOON = 500_000 * HOUR_MS


def hour(count: int = 1, nano: int = 0, **changed: object) -> RefusalHour:
    """Refusals of one hour."""
    named = {"hour_ms": NOON, "customer_id": "acme", "model": "m", "reason": "rate_limit"}
    return RefusalHour(**{**named, **changed}, count=count, estimated_nano=nano)  # type: ignore[arg-type]


class RefusalContract:
    """Sums and cursor move together, once."""

    async def test_refusals_add_up_by_hour_customer_model_and_reason(
        self, sink: Store, access: StoreAccess
    ) -> None:
        await sink.open()
        assert await sink.refusal_cursor() == NO_ENTRY
        other = [
            hour(5, customer_id="zeta"),
            hour(7, reason="insufficient_credits"),
            hour(8, hour_ms=NOON - HOUR_MS),
        ]
        assert await sink.add_refusals([hour(2, 30), *other], NO_ENTRY, "17-0")
        assert await sink.add_refusals([hour(3, 40), hour(4, model="")], "17-0", "18-3")
        assert await sink.refusal_cursor() == "18-3"
        with access.open() as store:
            assert list(store.refusals(None, None)) == [
                other[2],
                hour(4, model=""),
                other[1],
                hour(5, 70),
                other[0],
            ]
            assert list(store.refusals(NOON, None, "zeta")) == [other[0]]
            assert list(store.refusals(NOON - HOUR_MS, NOON)) == [other[2]]
            assert list(store.refusals(NOON + 1, None)) == []

    async def test_refusals_from_another_place_than_the_cursor_are_not_added(
        self, sink: Store, access: StoreAccess
    ) -> None:
        await sink.open()
        assert await sink.add_refusals([hour(2)], NO_ENTRY, "17-0")
        assert not await sink.add_refusals([hour(2)], NO_ENTRY, "17-0")
        assert await sink.refusal_cursor() == "17-0"
        with access.open() as store:
            assert list(store.refusals(None, None)) == [hour(2)]

    async def test_refusals_survive_a_reopening(self, sink: Store, access: StoreAccess) -> None:
        await sink.open()
        await sink.add_refusals([hour(2, 9)], NO_ENTRY, "17-0")
        await sink.close()
        await sink.open()
        assert await sink.refusal_cursor() == "17-0"
        with access.open() as store:
            assert list(store.refusals(None, None)) == [hour(2, 9)]

    async def test_a_page_without_refusals_moves_the_cursor_alone(
        self, sink: Store, access: StoreAccess
    ) -> None:
        await sink.open()
        assert await sink.add_refusals([], NO_ENTRY, "17-0")
        assert await sink.refusal_cursor() == "17-0"
        with access.open() as store:
            assert list(store.refusals(None, None)) == []

    async def test_sums_of_estimates_stop_at_their_bound(
        self, sink: Store, access: StoreAccess
    ) -> None:
        await sink.open()
        assert await sink.add_refusals([hour(1, MOST_NANO)], NO_ENTRY, "17-0")
        assert await sink.add_refusals([hour(1, MOST_NANO)], "17-0", "18-0")
        with access.open() as store:
            assert list(store.refusals(None, None)) == [hour(2, MOST_NANO)]

    async def test_a_store_that_is_not_open_is_unavailable(self, sink: Store) -> None:
        with pytest.raises(SinkUnavailable):
            await sink.refusal_cursor()
