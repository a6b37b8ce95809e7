"""Asks the Sentinels of a service which server is its primary.

Every question goes to all of them. A Sentinel that was cut off or frozen still names the old
primary, so of two answers the one with the higher configuration epoch counts: each failover has a
higher one than all before (https://valkey.io/topics/sentinel/, "Configuration epochs").

Invariant: an answer that is older than the last one counts only if most Sentinels agree that it is
the newest: then an operator has set them up again, and their epochs restarted.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.exceptions import RedisError, ResponseError

from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.faults import said_by
from gateway.ledger.following import Moves, NotPrimary

ASK_WITHIN_S: Final = 1.0
"""For one Sentinel to say what it knows."""
SETTLE_S: Final = 0.2
"""Once one has answered, the others may take this long."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Named:
    """What a Sentinel says. epoch: of the failover, or of the configuration, that made it so"""

    epoch: int
    address: tuple[str, int]


class PrimaryFinder:
    """One process's view of a service (a `Finder` of `gateway/ledger/following.py`)."""

    def __init__(self, service: str, sentinels: Sequence[Endpoint], moves: Moves) -> None:
        """moves: of the connections to the service's servers; they are dropped at a switch"""
        self.service = service
        self.sentinels = tuple(sentinels)
        self._moves = moves
        self._last: Named | None = None
        self._last_since = 0

    @property
    def shown(self) -> str:
        """The Sentinels' addresses, with commas between them."""
        return ",".join(sentinel.host_and_port for sentinel in self.sentinels)

    async def find(self) -> tuple[str, int, int]:
        """See `Finder`. If another server has taken over, all connections to the old one are dropped."""
        before = self._moves.count
        answers = await self._ask_all()
        named = [answer for answer in answers if isinstance(answer, Named)]
        best = max(named, key=lambda one: one.epoch, default=None)
        if best is None:
            reasons = "; ".join(str(answer) for answer in answers)
            raise NotPrimary(f"no sentinel names the primary of {self.service}: {reasons}")
        last = self._last
        if last is not None and best.epoch < last.epoch and 2 * len(named) <= len(self.sentinels):
            best = last
        self._last = best
        if last is not None and best.address != last.address:
            host, port = best.address
            _log.warning("ledger_switched", service=self.service, to=f"{host}:{port}")
            self._moves.switched(
                f"the primary of {self.service} has been replaced by {host}:{port}"
            )
            self._last_since = self._moves.count
        return *best.address, max(before, self._last_since)

    async def _ask_all(self) -> list[Named | NotPrimary]:
        tasks = [asyncio.create_task(self._ask(each)) for each in self.sentinels]
        waiting, wait_s = set(tasks), None
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                if any(isinstance(task.result(), Named) for task in done):
                    wait_s = SETTLE_S
        finally:
            for task in waiting:
                task.cancel()
        return [task.result() for task in tasks if task not in waiting]

    async def _ask(self, sentinel: Endpoint) -> Named | NotPrimary:
        client: Any = sentinel.client(
            name="creditgate-finder", timeout_s=ASK_WITHIN_S, max_connections=1
        )
        shown = sentinel.host_and_port
        try:
            async with asyncio.timeout(ASK_WITHIN_S), client.pipeline(transaction=False) as pipe:
                # During a failover the one names the promoted server, the other its new epoch.
                pipe.sentinel_get_master_addr_by_name(self.service)
                pipe.sentinel_master(self.service)
                address, state = await pipe.execute()
        except ResponseError as error:
            if "no such master" in str(error).lower():
                return NotPrimary(f"{shown} does not watch a service of that name")
            return NotPrimary(f"{shown} refuses: {said_by(error)[:200]}")
        except TimeoutError:
            return NotPrimary(f"{shown} does not answer")
        except (RedisError, OSError) as error:
            return NotPrimary(sentinel.say(error, "the sentinel"))
        finally:
            await client.aclose()
        if address is None:
            return NotPrimary(f"{shown} does not watch a service of that name")
        host, port = address
        host = host.decode() if isinstance(host, bytes) else host
        return Named(int(state["config-epoch"]), (host, int(port)))
