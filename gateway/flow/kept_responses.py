"""Answers that are kept for repeats of named requests, where a policy says `keep_answers`.

Invariants: bodies are kept nowhere else, and nothing depends on them: a repeat whose body is not
found gets 409 `already_done` with the cost. One file per gate, shared by its workers, made when the
first answer is kept. An answer has at most 64 KiB and stays for a day; all of them together stay
within a cap, and the oldest go first.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog

from gateway.domain.reservation import IDEMPOTENCY_TTL_MS
from gateway.telemetry.logs import failure

T = TypeVar("T")

log = structlog.get_logger("gate")

ANSWER_MAX_BYTES: Final = 64 << 10
ROW_BYTES: Final = 256
"""What an answer takes in addition to its body, counted towards the cap."""
SWEEP_EVERY_S: Final = 60.0
_AT_ONCE: Final = 64
"""Answers deleted in one statement."""
_LOCKED_PAUSE_S: Final = 0.005
_BUSY_S: Final = 1.0

_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reservation_id TEXT NOT NULL UNIQUE,
    kept_at_ms INTEGER NOT NULL,
    status INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    charged_nano INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS total (bytes INTEGER NOT NULL) STRICT;
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
CREATE TRIGGER IF NOT EXISTS kept AFTER INSERT ON answers BEGIN
    UPDATE total SET bytes = bytes + {ROW_BYTES} + length(new.body);
END;
CREATE TRIGGER IF NOT EXISTS dropped AFTER DELETE ON answers BEGIN
    UPDATE total SET bytes = bytes - {ROW_BYTES} - length(old.body);
END;
"""  # noqa: S608 - a number of ours
_DROP_OLDEST: Final = (
    f"DELETE FROM answers WHERE id IN (SELECT id FROM answers ORDER BY id LIMIT {_AT_ONCE})"  # noqa: S608 - so here
)
_DROP_EXPIRED: Final = (
    "DELETE FROM answers WHERE id IN"  # noqa: S608 - and here
    f" (SELECT id FROM answers ORDER BY id LIMIT {_AT_ONCE}) AND kept_at_ms <= ?"
)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as the client got it, or should have. charged_nano: what its request cost."""

    status: int
    media_type: str
    charged_nano: int
    body: bytes


class AnswerStore:
    """The kept answers of one gate. Use it from one event loop; nothing here raises."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self.max_bytes = max_bytes

    async def keep(self, reservation_id: str, answer: KeptAnswer) -> None:
        """Keep an answer; one that is too large is not."""
        if len(answer.body) <= ANSWER_MAX_BYTES:
            now_ms = time.time_ns() // 1_000_000
            await self._do(lambda: self._keep(reservation_id, answer, now_ms), None)

    async def find(self, reservation_id: str) -> KeptAnswer | None:
        """The answer to a request of the last day."""
        now_ms = time.time_ns() // 1_000_000
        return await self._do(lambda: self._find(reservation_id, now_ms), None)

    async def sweep(self) -> int:
        """Drop what is older than a day. Returns how many there were."""
        return await self._do(lambda: self._sweep(time.time_ns() // 1_000_000), 0)

    async def run(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            await self.sweep()

    async def close(self) -> None:
        """Close the file. Idempotent."""
        await self._do(self._close, None)
        self._thread.shutdown()

    async def _do(self, work: Callable[[], T], otherwise: T) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as fault:
            log.error("answers_failed", **failure(fault))
        except RuntimeError:
            pass  # closed: the gate is shutting down
        return otherwise

    # In the thread

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
            try:
                _switch_to_wal(database)
                database.execute("PRAGMA synchronous = OFF")  # a lost row only makes a repeat 409
                database.execute("PRAGMA secure_delete = ON")
                database.executescript(_SCHEMA)
            except sqlite3.Error:
                database.close()
                raise
            self._database = database
        return self._database

    def _keep(self, reservation_id: str, answer: KeptAnswer, now_ms: int) -> None:
        database = self._open()
        database.execute("BEGIN IMMEDIATE")
        try:
            database.execute(
                "INSERT OR IGNORE INTO answers"
                " (reservation_id, kept_at_ms, status, media_type, charged_nano, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    reservation_id,
                    now_ms,
                    answer.status,
                    answer.media_type,
                    answer.charged_nano,
                    answer.body,
                ),
            )
            while database.execute("SELECT bytes FROM total").fetchone()[0] > self.max_bytes:
                database.execute(_DROP_OLDEST)
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")

    def _find(self, reservation_id: str, now_ms: int) -> KeptAnswer | None:
        if self._database is None and not self._path.exists():
            return None
        row = (
            self._open()
            .execute(
                "SELECT status, media_type, charged_nano, body FROM answers"
                " WHERE reservation_id = ? AND kept_at_ms > ?",
                (reservation_id, now_ms - IDEMPOTENCY_TTL_MS),
            )
            .fetchone()
        )
        return None if row is None else KeptAnswer(*row)

    def _sweep(self, now_ms: int) -> int:
        if self._database is None and not self._path.exists():
            return 0
        database, dropped = self._open(), 0
        while count := database.execute(_DROP_EXPIRED, (now_ms - IDEMPOTENCY_TTL_MS,)).rowcount:
            dropped += count
        return dropped

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _switch_to_wal(database: sqlite3.Connection) -> None:
    """Use a write-ahead log. Raises sqlite3.OperationalError.

    Workers that open a new file together get "locked" at once: SQLite does not wait for this switch.
    """
    deadline_s = time.monotonic() + _BUSY_S
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_LOCKED_PAUSE_S)
