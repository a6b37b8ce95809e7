"""Shares of a pool and its queue: who may use another connection, who waits, who is next."""

import asyncio
import random

import pytest

from gateway.http.client.sharing import GREED, FairQueue, Shares, Waiter


def fill(shares: Shares, *owners: str) -> dict[str, int]:
    """Each owner in turn takes a connection, until nobody may; returns how many each has."""
    took = True
    while took:
        took = False
        for owner in owners:
            if shares.allows(owner):
                shares.add(owner)
                took = True
    return {owner: shares.used(owner) for owner in owners}


def waiter(owner: str, deadline: float = 0.0) -> Waiter:
    return Waiter(owner, deadline, asyncio.get_running_loop().create_future())


def test_one_busy_owner_leaves_a_fifth_and_two_a_ninth() -> None:
    assert fill(Shares(100), "a") == {"a": 80}
    assert fill(Shares(100), "a", "b") == {"a": 45, "b": 44}
    assert fill(Shares(20), "a") == {"a": 16}


def test_a_small_pool_is_not_split() -> None:
    for most in range(1, GREED + 1):
        assert fill(Shares(most), "a") == {"a": most}


def test_an_owner_with_none_in_use_has_one_while_any_is_free() -> None:
    shares = Shares(20)
    fill(shares, "a", "b", "c")
    number = 0
    while shares.busy < 20:
        number += 1
        assert shares.allows(f"new-{number}")
        shares.add(f"new-{number}")
    assert not shares.allows("one more")


def test_nobody_in_particular_may_use_all() -> None:
    assert fill(Shares(20), "") == {"": 20}


def test_shares_return_to_where_they_began() -> None:
    shares, drawn = Shares(50), random.Random(7)
    used: list[str] = []
    for _ in range(5_000):
        owner = f"c{drawn.randrange(6)}"
        if drawn.random() < 0.6 and shares.allows(owner):
            shares.add(owner)
            used.append(owner)
        elif used:
            shares.remove(used.pop(drawn.randrange(len(used))))
        assert shares.busy == len(used) <= 50
        for each in set(used):
            assert shares.used(each) == used.count(each)
    for owner in used:
        shares.remove(owner)
    assert (shares.busy, shares._used) == (0, {})


def test_counting_begins_with_those_in_use_and_ends_with_nothing_counted() -> None:
    shares = Shares(20)
    shares.resize(15, "aab")
    assert (shares.counting, shares.busy) == (False, 0), "nobody can be above its share"
    shares.resize(16, "a" * 13 + "bb")
    assert (shares.counting, shares.busy, shares.used("a"), shares.used("b")) == (True, 15, 13, 2)
    shares.add("a")
    shares.resize(17, "never read")
    assert (shares.busy, shares.used("a")) == (16, 14)
    shares.resize(15, "aab")
    assert (shares.counting, shares.busy, shares.used("a")) == (False, 0, 0)


def test_a_pool_of_one_counts_from_the_start() -> None:
    assert Shares(1).counting


async def test_the_owner_that_uses_the_fewest_is_first_and_among_equals_who_came_first() -> None:
    shares, queue = Shares(10), FairQueue(10)
    for owner in "aab":
        shares.add(owner)
    for number, owner in enumerate("aabbc"):
        assert queue.add(waiter(owner, float(number))) is None
    order = []
    while (first := queue.first(shares)) is not None:
        queue.discard(first)
        shares.add(first.owner)
        order.append((first.owner, first.deadline))
    assert order == [("c", 4.0), ("b", 2.0), ("a", 0.0), ("b", 3.0), ("a", 1.0)]
    assert queue.count == 0


async def test_when_it_is_full_the_longest_line_makes_room() -> None:
    queue = FairQueue(4)
    greedy = [waiter("a", float(number)) for number in range(4)]
    assert [queue.add(each) for each in greedy] == [None] * 4
    more = waiter("a")
    assert queue.add(more) is more, "the greedy owner itself gets no more"
    assert queue.add(waiter("b")) is greedy[3]
    assert queue.add(waiter("b")) is greedy[2], "until both have the same"
    third = waiter("b")
    assert queue.add(third) is third
    assert queue.count == 4


async def test_those_whose_time_is_over_leave() -> None:
    queue = FairQueue(9)
    for number, owner in enumerate("abab"):
        queue.add(waiter(owner, float(number)))
    assert sorted(each.deadline for each in queue.take_expired(2.0)) == [0.0, 1.0]
    assert len(queue.take_all()) == 2
    assert (queue.count, queue._waiting) == (0, {})


@pytest.mark.parametrize("times", [1, 2])
async def test_leaving_twice_counts_once(times: int) -> None:
    queue = FairQueue(9)
    first = waiter("a")
    queue.add(first)
    queue.add(waiter("a"))
    for _ in range(times):
        queue.discard(first)
    assert queue.count == 1
