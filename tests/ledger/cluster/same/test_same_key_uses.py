"""`tests/ledger/test_key_uses.py` on a cluster."""

from tests.ledger.test_key_uses import *  # noqa: F403
