"""`tests/ledger/test_leases.py` on a cluster."""

from tests.ledger.test_leases import *  # noqa: F403
