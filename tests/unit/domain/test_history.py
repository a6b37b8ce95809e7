"""When a past reservation was made, by its id."""

import pytest

from gateway.domain.history import reserved_at_ms
from gateway.flow.context import new_request_id

ENDED_MS = 1_700_000_009_000


@pytest.mark.parametrize(
    ("reservation_id", "moment_ms"),
    [
        (f"{1_700_000_000_000:012x}{'ab' * 10}", 1_700_000_000_000),
        (f"{ENDED_MS + 1:012x}{'ab' * 10}", ENDED_MS),  # a gate's clock that is ahead
        (f"{0:012x}{'ab' * 10}", ENDED_MS),
        ("x" * 32, ENDED_MS),
        (f"{1_700_000_000_000:012x}", ENDED_MS),
        ("", ENDED_MS),
    ],
)
def test_an_id_says_when_its_request_came_or_else_the_end_does(
    reservation_id: str, moment_ms: int
) -> None:
    assert reserved_at_ms(reservation_id, ENDED_MS) == moment_ms


def test_the_gates_own_ids_say_it() -> None:
    before_the_end = reserved_at_ms(new_request_id(), 1 << 47)
    assert 1_700_000_000_000 < before_the_end < 1 << 47
