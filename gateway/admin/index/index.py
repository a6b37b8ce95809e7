"""The index of the admin process: follows the required store, and answers questions.

A file that is missing, damaged, of another store or of another format is built again; while it is being
built, and where its folder cannot be written, `ready` is false and pages ask the store.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, TypeVar

import structlog

from gateway.admin.index import search as searching
from gateway.admin.index import usage as summing
from gateway.admin.index.filling import Filler
from gateway.admin.index.search import IndexedRequest, RequestsAsked
from gateway.admin.index.tables import begin_again, open_to_read, open_to_write, remove
from gateway.admin.index.usage import UsageAsked
from gateway.domain.delivery import START, Place
from gateway.domain.stores import EventStore, StoreMissing
from gateway.operations.report import Report, ReportRequest, report
from gateway.telemetry.logs import failure

log = structlog.get_logger("index")

T = TypeVar("T")

FILE: Final = "console-index.db"
EVERY_S: Final = 1.0
PAGE: Final = 2000
WAIT_MOST_S: Final = 1.0
"""How long a page waits for what is newest."""
_STEP_S: Final = 0.2
_GAPS_EVERY_S: Final = 30.0
_PAUSE_S: Final = 0.01
_FAILURE_PAUSE_S: Final = 10.0
_Failures = (sqlite3.Error, OSError, OverflowError)


class IndexNotReady(Exception):
    """The index is being built, or cannot be."""


class Index:
    """One file, followed by one task. Its questions are asked in any thread."""

    def __init__(self, path: Path, store: EventStore) -> None:
        """store: opened for each question, such as a backend's. The file is opened by the first step"""
        self._path = path
        self._store = store
        self._lock = threading.Lock()
        self._filler: Filler | None = None
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._stepping: asyncio.Task[bool] | None = None
        self._looked_at = 0.0
        self._gaps_at = time.monotonic()
        self.ready = False
        """Whether it has had everything that the store had, and has not been begun again since."""
        self.problem = ""
        """Why the store cannot be followed at present."""

    async def keep_filled(self) -> None:
        """Follow the store until cancelled."""
        while True:
            try:
                complete = await self._step()
                await asyncio.sleep(EVERY_S if complete else _PAUSE_S)
            except StoreMissing:
                await asyncio.sleep(EVERY_S)
            except Exception as error:
                # A full disk, say: pages go on without the index.
                log.error("index_failed", **failure(error))
                await asyncio.sleep(_FAILURE_PAUSE_S)

    async def refresh(self) -> None:
        """Read what is in the store by now; wait only a moment for it."""
        with suppress(StoreMissing, TimeoutError, *_Failures):
            await asyncio.wait_for(self._look_after(time.monotonic()), WAIT_MOST_S)

    async def report(self, request: ReportRequest) -> Report:
        """Sum up a period: from the index if it can answer, else from the store's rows.

        Raises OperationError, StoreMissing.
        """
        asked = summing.indexed(request)
        if asked is not None:
            with suppress(IndexNotReady):
                return await self.usage(asked)
        return await asyncio.to_thread(report, self._store, request)

    async def usage(self, asked: UsageAsked) -> Report:
        """Sums. Raises IndexNotReady, ValueError for a time within an hour."""
        return await self._ask(lambda connection: summing.usage(connection, asked))

    async def search(self, asked: RequestsAsked) -> list[IndexedRequest]:
        """The latest requests that pass. Raises IndexNotReady."""
        return await self._ask(lambda connection: searching.search(connection, asked))

    def close(self) -> None:
        """Close the file, when the step that runs has ended."""
        with self._lock:
            self._closed, self.ready = True, False
            if self._connection is not None:
                self._connection.close()

    def step(self) -> bool:
        """Read what is new, for a fifth of a second at most; return whether that was all.

        Raises StoreMissing, sqlite3.Error, OSError, OverflowError.
        """
        with self._lock:
            if self._closed:
                return True
            if self._filler is None:
                self._connection = open_to_write(self._path)
                self._filler = Filler(self._connection, self._store)
            began_at = time.monotonic()
            try:
                complete = self._follow(self._filler, began_at + _STEP_S)
            except StoreMissing as missing:
                self.problem = str(missing)
                raise
            except (sqlite3.Error, OverflowError) as error:
                self._give_up(error)
                raise
            self._looked_at = began_at
            self.ready = self.ready or complete
            self.problem = ""
            return complete

    async def _look_after(self, asked_at: float) -> None:
        """Step until one has begun after this moment: that which runs may have looked before it."""
        while self.ready and self._looked_at < asked_at:
            await self._step()

    async def _step(self) -> bool:
        """One step at a time, whoever asks for it; one that waits no more does not end it."""
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(asyncio.to_thread(self.step))
            self._stepping.add_done_callback(_noticed)
        return await asyncio.shield(self._stepping)

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        await self.refresh()
        if not self.ready:
            raise IndexNotReady
        try:
            return await asyncio.to_thread(self._answer, question)
        except sqlite3.Error as error:
            log.error("index_failed", **failure(error))
            await asyncio.to_thread(self._give_up_locked, error)
            raise IndexNotReady from error

    def _answer(self, question: Callable[[sqlite3.Connection], T]) -> T:
        with closing(open_to_read(self._path)) as connection:
            return question(connection)

    def _give_up_locked(self, error: Exception) -> None:
        with self._lock:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """The next step opens the file again; a damaged one is removed, so that it is built again."""
        self.ready = False
        self._filler = None
        if self._connection is not None:
            self._connection.close()
        if isinstance(error, sqlite3.DatabaseError) and type(error) is not sqlite3.OperationalError:
            remove(self._path)

    def _follow(self, filler: Filler, deadline: float) -> bool:
        ends, places = self._store.cursors(), filler.places()
        why = self._unusable(ends, places)
        if why:
            self.ready = False
            log.info("index_begun_again", reason=why)
            assert self._connection is not None, "a filler has one"
            begin_again(self._connection)
            filler.forget()
            places = {}
        if not places:
            self._note_store()
        for shard, end in ends.items():
            place = places.get(shard, START)
            while place < end:
                if time.monotonic() > deadline:
                    return False
                place = self._add_page(filler, shard, place, end)
        return True

    def _add_page(self, filler: Filler, shard: int, place: Place, end: Place) -> Place:
        """Beyond the cursor a store may have events that are still being written: they wait."""
        page = self._store.events_beyond(shard, place, PAGE)
        events = [event for event in page if (event.epoch, event.seq) <= end]
        more = len(events) == PAGE
        reached = Place(events[-1].epoch, events[-1].seq) if more else end
        filler.add(shard, place, events, reached)
        return reached

    def _unusable(self, ends: dict[int, Place], places: dict[int, Place]) -> str:
        """Why the file cannot be continued; "" if it can."""
        if not places:
            return ""
        if any(place > ends.get(shard, START) for shard, place in places.items()):
            return "the store has less than before"
        assert self._connection is not None, "there are places"
        ((known,),) = self._connection.execute("SELECT store_id FROM about")
        if known != self._store.store_id():
            return "the store is another one"
        if time.monotonic() - self._gaps_at > _GAPS_EVERY_S:
            self._gaps_at = time.monotonic()
            if self._filled_gap():
                return "events have arrived in places that were passed"
        return ""

    def _filled_gap(self) -> bool:
        """Whether an event came to a place that had none, such as one replayed from a dead letter."""
        assert self._connection is not None, "there are places"
        gaps: dict[tuple[int, int], list[int]] = {}
        for shard, epoch, seq in self._connection.execute("SELECT shard, epoch, seq FROM gaps"):
            gaps.setdefault((shard, epoch), []).append(seq)
        return any(self._store.at_places(*where, seqs) for where, seqs in gaps.items())

    def _note_store(self) -> None:
        assert self._connection is not None, "a filler has one"
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("DELETE FROM about")
        self._connection.execute("INSERT INTO about VALUES (?)", (self._store.store_id(),))
        self._connection.execute("COMMIT")


def _noticed(task: asyncio.Task[bool]) -> None:
    """Its error is of no interest to those who waited no longer; the next step has it again."""
    if not task.cancelled():
        task.exception()
