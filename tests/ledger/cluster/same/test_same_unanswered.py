"""`tests/ledger/test_unanswered.py` on a cluster."""

from tests.ledger.test_unanswered import *  # noqa: F403
