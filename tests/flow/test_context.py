"""A request's id."""

import re
import time

from gateway.flow.context import new_request_id


def test_ids_sort_by_time_and_none_is_given_twice() -> None:
    before_ms = time.time_ns() // 1_000_000
    ids = [new_request_id() for _ in range(1000)]  # more than are drawn at once
    assert len(set(ids)) == 1000
    assert len({each[12:] for each in ids}) == 1000, "the random part alone tells them apart"
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
    times = [int(each[:12], 16) for each in ids]
    assert times == sorted(times)
    assert before_ms <= times[0] <= before_ms + 60_000
