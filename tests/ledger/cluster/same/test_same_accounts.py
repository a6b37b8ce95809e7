"""`tests/ledger/test_accounts.py` on a cluster."""

from tests.ledger.test_accounts import *  # noqa: F403
