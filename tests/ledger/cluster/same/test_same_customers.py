"""`tests/ledger/test_customers.py` on a cluster."""

from tests.ledger.test_customers import *  # noqa: F403
