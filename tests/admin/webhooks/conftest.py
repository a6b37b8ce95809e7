"""A console that takes payments."""

from collections.abc import AsyncIterator

import pytest

from tests.support.console import Console, Serve
from tests.support.webhooks import PAYMENTS, Stripe


@pytest.fixture
async def paying(serve: Serve) -> AsyncIterator[Console]:
    """`acme` has 10 credits, `broke` none."""
    async with serve(payments=PAYMENTS) as running:
        yield running


@pytest.fixture
def stripe(paying: Console) -> Stripe:
    """Stripe, which knows the console's webhook."""
    return Stripe(paying)
