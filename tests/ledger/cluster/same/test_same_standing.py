"""`tests/ledger/test_standing.py` on a cluster."""

from tests.ledger.test_standing import *  # noqa: F403
