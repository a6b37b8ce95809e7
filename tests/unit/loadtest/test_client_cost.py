"""The client benchmark runs, and its law holds: every client does the same pairs."""

from loadtest.client_cost import run


def test_every_client_is_measured_on_the_same_work() -> None:
    costs = run(callers=8, pairs=80, rounds=2)
    assert [cost.client for cost in costs] == [
        "CoalescingRunner",
        "redis-py, a pipeline per tick",
        "redis-py",
    ]
    assert all(cost.cpu_us > 0 and cost.wall_us > 0 for cost in costs)
