"""Subscribes to the Sentinels, so that a switch is followed when it happens.

All of them are subscribed to, and the first to know is followed. A message is a reason to ask all of
them who the primary is, and no more: so one that lags, repeats or is late cannot mislead.
"""

import asyncio
import random
from contextlib import suppress
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.sentinel.finder import PrimaryFinder
from gateway.ledger.following import NotPrimary

CHANNELS: Final = ("+switch-master", "+promoted-slave")
"""The Sentinel that leads a failover says the second when the new primary is one, and the first when
the replicas follow it, which may be seconds later."""
AGAIN_S: Final = 1.0
"""Pause before a Sentinel that was lost is subscribed to again, at most."""
LISTEN_S: Final = 5.0
"""How long one look for messages lasts; the connection's health is checked in between."""

_log = structlog.get_logger()


async def follow_switches(finder: PrimaryFinder) -> None:
    """Have `finder` look at every hint that the primary has been replaced. Runs until cancelled."""
    tasks = [asyncio.create_task(_follow(finder, sentinel)) for sentinel in finder.sentinels]
    try:
        # Not a TaskGroup, which passes on the first of several cancellations only.
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _follow(finder: PrimaryFinder, sentinel: Endpoint) -> None:
    shown, lost = sentinel.host_and_port, False
    while True:
        client: Any = sentinel.client(name="creditgate-switches", max_connections=1)
        try:
            async with client.pubsub() as channel:
                await channel.subscribe(*CHANNELS)
                while True:
                    message = await channel.get_message(timeout=LISTEN_S)
                    if message is None or not _is_hint(message):
                        continue
                    if lost:
                        lost = False
                        _log.info("sentinel_found", sentinel=shown)
                    with suppress(NotPrimary):
                        await finder.find()
        except (RedisError, OSError) as error:
            if not lost:
                lost = True
                reason = sentinel.say(error, "the sentinel")
                _log.warning("sentinel_lost", sentinel=shown, reason=reason)
        finally:
            await client.aclose()
        await asyncio.sleep(AGAIN_S * random.uniform(0.5, 1.0))  # noqa: S311


def _is_hint(message: dict[str, Any]) -> bool:
    """A switch; or that all channels are subscribed to: what was missed before is asked for then."""
    if message["type"] == "subscribe":
        return bool(message["data"] == len(CHANNELS))
    return bool(message["type"] == "message")
