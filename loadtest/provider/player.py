"""Plays the steps of one answer on a client connection, when they are due and as the client reads."""

import asyncio
from collections.abc import Iterator
from typing import Protocol

from loadtest.served import Row
from loadtest.sim_script import Step


class Stage(Protocol):
    """The connection that an answer is played on. paused: the client does not read"""

    paused: bool
    transport: asyncio.Transport

    def answered(self) -> None:
        """The answer is complete."""

    def reset(self) -> None:
        """Close with RST instead of FIN."""


class Player:
    """Plays the steps of one answer on its connection."""

    def __init__(self, connection: Stage, script: Iterator[Step], row: Row) -> None:
        self._connection = connection
        self._script = script
        self._row = row
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped_at: Step | None = None

    def play(self) -> None:
        """Perform all steps that are due; continue by timer or when the client has read."""
        for step in self._script:
            if step.delay_s:
                # counted from when the last step was due, so that a late timer delays nothing else
                self._due_s += step.delay_s
                self._timer = self._loop.call_at(self._due_s, self._timed, step)
                return
            if not self._perform(step):
                return
        self._row.state = "complete"
        self._connection.answered()

    def _timed(self, step: Step) -> None:
        self._timer = None
        if self._perform(step):
            self.play()

    def _perform(self, step: Step) -> bool:
        connection = self._connection
        if connection.paused:
            self._stopped_at = step
            return False
        if step.data:
            connection.transport.write(step.data)
        self._row.output += step.tokens
        if step.then == "rst":
            self._break_off()
            return False
        if step.then == "fin":
            self._row.state = "complete" if self._row.output == self._row.planned else "broken"
            connection.transport.close()
            return False
        return step.then != "hang"

    def _break_off(self) -> None:
        # a reset throws away what is still in the buffer: let it go out first
        if self._connection.transport.get_write_buffer_size():
            self._timer = self._loop.call_later(0.001, self._break_off)
        else:
            self._row.state = "broken"
            self._connection.reset()

    def resumed(self) -> None:
        """The client has read: go on where back-pressure stopped."""
        step, self._stopped_at = self._stopped_at, None
        if step is not None and self._perform(step):
            self.play()

    def broken(self) -> None:
        """The connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
        if self._row.state == "open":
            self._row.state = "broken"
