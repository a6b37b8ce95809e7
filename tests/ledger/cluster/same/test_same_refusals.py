"""`tests/ledger/test_refusals.py` on a cluster."""

from tests.ledger.test_refusals import *  # noqa: F403
