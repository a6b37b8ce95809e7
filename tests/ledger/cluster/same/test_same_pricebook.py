"""`tests/ledger/test_pricebook.py` on a cluster."""

from tests.ledger.test_pricebook import *  # noqa: F403
