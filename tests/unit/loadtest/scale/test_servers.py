"""Ledgers are named by their size, run as real servers, and can be emptied."""

from pathlib import Path

import pytest

from loadtest.scale.pairs import shares
from loadtest.scale.servers import SHAPES, THREE, TWO, accounts, running


def test_a_ledger_is_named_by_its_servers() -> None:
    assert [shape.name for shape in SHAPES] == [
        "single server",
        "1 primary",
        "2 primaries",
        "3 primaries",
        "3 primaries + 3 replicas",
    ]


def test_each_shard_has_one_customer() -> None:
    assert [account.shard for account in accounts(windows=False)] == list(range(64))
    assert not any(account.limits for account in accounts(windows=False))
    assert all(len(account.limits) == 6 for account in accounts(windows=True))


@pytest.mark.slow
def test_a_cluster_of_two_primaries_has_all_shards_and_forgets_them(tmp_path: Path) -> None:
    with running(TWO, tmp_path) as ledger:
        assert sum(shares(ledger)) == pytest.approx(1)
        node = ledger.primaries[ledger.owner(7)]
        ledger.client(node).set("{cg:7}:key", "value")
        before = ledger.spent()
        ledger.empty()
        spent = ledger.spent().since(before)
        assert not ledger.client(node).exists("{cg:7}:key")
        assert len(spent.primaries_s) == 2
        assert all(used_s > 0 for used_s in spent.primaries_s)
        assert spent.replicas_s == 0
        assert ledger.url.startswith("redis+cluster://127.0.0.1:")


@pytest.mark.slow
def test_a_replicas_records_are_forgotten_with_its_primarys(tmp_path: Path) -> None:
    shape = type(THREE)(THREE.primaries, replicas=1)
    with running(shape, tmp_path) as ledger:
        node = ledger.primaries[ledger.owner(7)]
        ledger.client(node).set("{cg:7}:key", "value")
        ledger.empty()
        assert len(ledger.replicas) == 3
        assert not any(ledger.client(replica).dbsize() for replica in ledger.replicas)
