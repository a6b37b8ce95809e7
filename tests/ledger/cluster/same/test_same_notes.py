"""`tests/ledger/test_notes.py` on a cluster."""

from tests.ledger.test_notes import *  # noqa: F403
