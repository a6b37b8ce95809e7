"""The primary of a ledger behind Sentinels is killed under load, and comes back: the gate serves again
by itself, and every request is charged or named. `make sentinel` runs the long form.
"""

from pathlib import Path

import pytest
from rich.console import Console

from loadtest.failover import sentinel


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_gate_follows_its_ledger_to_another_server_under_load(tmp_path: Path) -> None:
    run = sentinel.run(tmp_path, Console(quiet=True), rate=30.0, short=True)
    assert run.checked.good, (run.checked.wrong, run.checked.verified)
    killed, restarted = run.played
    assert killed.refused > 0, "nobody noticed that the primary was gone"
    assert restarted.refused == 0, "the old primary disturbed the new one"
    assert run.checked.charged_tokens > 0
    explained = {loss.cause for loss in run.checked.losses}
    assert explained <= {killed.title}, run.checked.losses
