"""Test modules that say `BOTH_EVENT_LOOPS = True` run on asyncio's loop and on uvloop."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the event loops an item runs on, for pytest-asyncio."""
    module = item.getparent(pytest.Module)
    if module is not None and getattr(module.obj, "BOTH_EVENT_LOOPS", False):
        return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.SelectorEventLoop}
