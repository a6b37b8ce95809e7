"""`tests/ledger/test_modes.py` on a cluster."""

from tests.ledger.test_modes import *  # noqa: F403
