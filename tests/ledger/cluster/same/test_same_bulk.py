"""`tests/ledger/test_bulk.py` on a cluster."""

from tests.ledger.test_bulk import *  # noqa: F403
