"""The attacks of `make hostile`, in small, against a real gate."""

from collections import Counter
from collections.abc import Iterator

import pytest

from loadtest.hostile.__main__ import MIB, Row, attack_with, raise_file_limit, table
from loadtest.hostile.arena import Arena, arena
from loadtest.hostile.attacks import ATTACKS, Attack
from loadtest.hostile.probe import Probed

SHARE = 0.1
CALM = Probed(Counter({200: 99}), 5.0, 30.0)


def row(honest: Probed = CALM, most_bytes: int = 60 * MIB, **found: int) -> Row:
    attack = Attack("x", ATTACKS[0].run, frozenset({"400", "402"}))
    return Row(attack, Counter(found), honest, 50 * MIB, most_bytes, 55 * MIB)


def test_a_row_names_what_should_not_be_so() -> None:
    assert row().faults(50) == []
    assert Row(ATTACKS[0], Counter({"500": 1, "402": 3}), CALM, 0, 0, 0).faults(50) == [
        "answered 500"
    ]
    assert row(most_bytes=51 * MIB + ATTACKS[0].most_growth_bytes).faults(50) == ["memory"]
    paused = Probed(Counter({200: 99}), 5.0, 56.0)
    assert row(paused).faults(50) == ["pause"]
    assert row(paused).faults(0) == []
    unserved = Probed(Counter({200: 97, 503: 2}), 5.0, 6.0)
    assert row(unserved).faults(50) == ["others not served"]
    assert row(Probed(Counter({200: 999}), 5.0, 6.0, wrong=1)).faults(50) == ["others not served"]
    assert row(Probed()).faults(50) == ["others not served"]
    assert table([row(), row(paused)], 50).row_count == 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A gate for all attacks; one whose customer has a busy day, for those that need it."""
    raise_file_limit()
    day_events = max(attack.day_events for attack in ATTACKS) // 20
    with arena(tmp_path_factory.mktemp("arena"), day_events=day_events) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
async def test_others_are_served_while_it_lasts(attack: Attack, place: Arena) -> None:
    found = await attack_with(attack, place, SHARE, calm_s=0.2)
    # How long a pause takes depends on what else the machine does; `make hostile` judges it.
    assert found.faults(0) == [], found
