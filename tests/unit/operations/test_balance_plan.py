"""Plans of moves between nodes: even in the end, never worse, and no move without need."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from gateway.operations.balance_plan import BalancePlan, PlacedSlot, plan_moves

NODES = ["a", "b", "c"]


def place(**loads: list[int]) -> list[PlacedSlot]:
    """Slots by node, numbered in turn."""
    pairs = [(node, load) for node, its in loads.items() for load in its]
    return [PlacedSlot(number, node, load) for number, (node, load) in enumerate(pairs)]


def test_a_balanced_cluster_plans_nothing() -> None:
    slots = place(a=[50, 52], b=[100], c=[98])
    assert plan_moves(slots, NODES, 0.1).moves == []


def test_an_idle_cluster_plans_nothing() -> None:
    plan = plan_moves(place(a=[0, 0], b=[]), NODES, 0.0)
    assert plan.moves == []
    assert plan.imbalance(plan.before) is None


def test_a_node_that_was_added_gets_its_share() -> None:
    slots = place(a=[10] * 10, b=[10] * 10, c=[10] * 10)
    plan = plan_moves(slots, [*NODES, "new"], 0.1)
    assert len(plan.moves) == 7
    assert {move.target for move in plan.moves} == {"new"}
    assert sorted(plan.after.values()) == [70, 70, 80, 80]


def test_a_node_that_was_added_gets_its_share_although_nobody_is_far_above_the_mean() -> None:
    nodes = [str(number) for number in range(20)]
    slots = [PlacedSlot(n, nodes[n % 20], 1) for n in range(400)]
    plan = plan_moves(slots, [*nodes, "new"], 0.1)
    assert plan.after["new"] >= 17
    assert all(move.target == "new" for move in plan.moves)


def test_one_hot_slot_stays_and_the_others_leave_it() -> None:
    plan = plan_moves(place(a=[100, 5, 5], b=[20], c=[20]), NODES, 0.0)
    assert {(move.slot, move.source) for move in plan.moves} == {(1, "a"), (2, "a")}
    assert plan.after["a"] == 100


def test_one_large_move_is_preferred_to_many_small_ones() -> None:
    plan = plan_moves(place(a=[30, *[1] * 90], b=[60], c=[90]), NODES, 0.0)
    assert [move.load for move in plan.moves] == [30]


def test_slots_without_load_stay() -> None:
    plan = plan_moves(place(a=[0, 8, 8], b=[0]), ["a", "b"], 0.0)
    assert [(move.load, move.target) for move in plan.moves] == [(8, "b")]


cases = st.builds(
    lambda loads, nodes, tolerance: (loads, nodes, tolerance),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2000)), max_size=80),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.1, 0.5]),
)


@given(cases)
def test_a_plan_is_never_worse_and_a_second_one_plans_nothing(
    case: tuple[list[tuple[int, int]], int, float],
) -> None:
    loads, count, tolerance = case
    nodes = [f"n{number}" for number in range(count)]
    slots = [PlacedSlot(s, nodes[at % count], load) for s, (at, load) in enumerate(loads)]
    plan = plan_moves(slots, nodes, tolerance)
    after = moved(slots, plan)
    assert plan.before == sums(slots, nodes)
    assert plan.after == sums(after, nodes)
    assert sum(plan.after.values()) == sum(plan.before.values())
    assert max(plan.after.values()) <= max(plan.before.values())
    assert min(plan.after.values()) >= min(plan.before.values())
    assert plan_moves(after, nodes, tolerance).moves == []
    assert all(move.load > 0 and move.source != move.target for move in plan.moves)
    assert len({move.slot for move in plan.moves}) == len(plan.moves)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(2, 6))
def test_equal_slots_end_within_one_slot_of_each_other(loads: list[int], count: int) -> None:
    nodes = [f"n{number}" for number in range(count)]
    slots = [PlacedSlot(s, nodes[at % count], 10) for s, at in enumerate(loads)]
    after = plan_moves(slots, nodes, 0.0).after.values()
    assert max(after) - min(after) <= 10


def moved(slots: list[PlacedSlot], plan: BalancePlan) -> list[PlacedSlot]:
    """The slots after the moves; each must be where its move says."""
    target = {move.slot: move.target for move in plan.moves}
    by_slot = {each.slot: each for each in slots}
    for move in plan.moves:
        assert (by_slot[move.slot].node, by_slot[move.slot].load) == (move.source, move.load)
    return [PlacedSlot(s.slot, target.get(s.slot, s.node), s.load) for s in slots]


def sums(slots: list[PlacedSlot], nodes: list[str]) -> dict[str, int]:
    loads: dict[str, int] = defaultdict(int, dict.fromkeys(nodes, 0))
    for each in slots:
        loads[each.node] += each.load
    return dict(loads)
