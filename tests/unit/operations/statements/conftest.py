"""A shop with nothing in it yet, and one in which two months have passed."""

from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from tests.unit.operations.statements.shop import MINUTE_MS, Shop, at


@pytest.fixture
async def new_shop(
    valkey: redis.asyncio.Redis, tmp_path: Path, valkey_socket: Path, request: Any
) -> Shop:
    """It is noon of 31 August 2025."""
    made = Shop(valkey, tmp_path, valkey_socket, getattr(request, "param", 1))
    await made.open()
    return made


@pytest.fixture
async def shop(new_shop: Shop) -> Shop:
    """It is 1 November 2025, and everything is in the store."""
    for boundary in (at(9, 1), at(9, 15), at(10, 1), at(10, 15), at(11, 1)):
        await new_shop.pass_to(boundary - 10 * MINUTE_MS)
        await new_shop.cross(boundary)
    await new_shop.export()
    return new_shop
