"""The bounded cache of what was looked up."""

from gateway.flow.lru import Lru


def test_what_was_used_least_recently_goes_first() -> None:
    kept: Lru[str, int] = Lru(2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (1, None, 3)


def test_a_value_that_is_replaced_counts_as_used_and_once() -> None:
    kept: Lru[str, int] = Lru(2)
    for name, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        kept.put(name, value)
    assert (len(kept), kept.get("a"), kept.get("b")) == (2, 3, None)


def test_what_is_dropped_is_gone_and_leaves_room() -> None:
    kept: Lru[str, int] = Lru(2)
    kept.put("a", 1)
    assert kept.pop("a") == 1
    assert kept.pop("a") is None
    kept.put("b", 2)
    kept.put("c", 3)
    assert (kept.get("b"), kept.get("c")) == (2, 3)
