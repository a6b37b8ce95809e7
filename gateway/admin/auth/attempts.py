"""Bounds failed sign-ins, per address and in all."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 300.0
PER_ADDRESS: Final = 10
IN_ALL: Final = 200


class Attempts:
    """Failed attempts of the last five minutes. In memory: a restart forgets them."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._failed: deque[tuple[float, str]] = deque()

    def wait_s(self, address: str) -> int:
        """How long this address has to wait before its next attempt, in seconds; 0 for not at all."""
        self._forget()
        own = [at_s for at_s, known in self._failed if known == address]
        waits = [0.0]
        if len(own) >= PER_ADDRESS:
            waits.append(own[-PER_ADDRESS] + WINDOW_S - self._clock_s())
        if len(self._failed) >= IN_ALL:
            waits.append(self._failed[-IN_ALL][0] + WINDOW_S - self._clock_s())
        return math.ceil(max(waits))

    def note_failure(self, address: str) -> None:
        """Count a failed attempt."""
        self._forget()
        if len(self._failed) < 2 * IN_ALL:
            self._failed.append((self._clock_s(), address))

    def _forget(self) -> None:
        oldest_s = self._clock_s() - WINDOW_S
        while self._failed and self._failed[0][0] <= oldest_s:
            self._failed.popleft()
