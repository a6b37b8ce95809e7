"""The server and the pool are tested on uvloop, the event loop of a gate's workers; the gates that
other tests run in their own process are on asyncio's."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's hook: the event loops an item runs on."""
    return {"uvloop": uvloop.new_event_loop}
