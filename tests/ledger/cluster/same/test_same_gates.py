"""`tests/ledger/test_gates.py` on a cluster."""

from tests.ledger.test_gates import *  # noqa: F403
