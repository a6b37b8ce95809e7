"""A real gate on a real cluster under load: the short form of `make cluster`."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.failover.cluster import run


@pytest.mark.timeout(240)
def test_a_gate_serves_on_while_nodes_of_its_cluster_fail_and_shards_move(tmp_path: Path) -> None:
    done = run(tmp_path, Console(file=io.StringIO()), rate=40, short=True)
    assert done.checked.wrong == []
    assert done.checked.clean, done.checked.verified
    assert done.checked.charged_tokens > 0
    titles = [step.title for step in done.played]
    assert titles == ["primary killed (-9)", "old primary restarted", "shards moved at once"]
    killed, _, moved = done.played
    assert killed.refused > 0  # so the kill was met by requests
    assert moved.refused == 0
    assert killed.nobody_s < killed.somebody_not_s  # the customers of other nodes were served
