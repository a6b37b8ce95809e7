"""The business day of `make day`, with fewer customers: every step checks its own figures."""

from pathlib import Path

import pytest
from rich.console import Console

from loadtest.day.__main__ import play


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_business_day_leaves_every_figure_as_computed(tmp_path: Path) -> None:
    done = play(tmp_path, customers=60, load=80, out=Console(quiet=True))
    assert [title for title, _, _ in done][-1] == "The audit log"
    assert len(done) == 11
