"""Work that takes longer than a page may: started by a form, watched by the page that shows its result.

One of each kind at a time, for all viewers. Results stay until the next one of the kind, or the end of
the process.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog
from starlette.requests import Request

from gateway.domain.stores import StoreMissing
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.operations.errors import OperationError
from gateway.telemetry.logs import failure

T = TypeVar("T")
log = structlog.get_logger("console")


@dataclass(slots=True)
class Job(Generic[T]):
    """One run. progress: in words; problem: why it failed, "" while it has not"""

    by: str
    started_at_ms: int
    ended_at_ms: int | None = None
    progress: str = ""
    result: T | None = None
    problem: str = ""

    @property
    def running(self) -> bool:
        """Whether it still works."""
        return self.ended_at_ms is None

    @property
    def took_s(self) -> float:
        """How long it took, or has taken so far."""
        end_ms = self.ended_at_ms or time.time_ns() // 1_000_000
        return (end_ms - self.started_at_ms) / 1000


class Jobs:
    """The last job of each kind."""

    def __init__(self) -> None:
        self._last: dict[str, Job[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def last(self, kind: str) -> Job[Any] | None:
        """The job of this kind that runs or ran last."""
        return self._last.get(kind)

    def start(self, kind: str, by: str, work: Callable[[Job[Any]], Awaitable[Any]]) -> Job[Any]:
        """Start one, unless one of its kind runs."""
        running = self._last.get(kind)
        if running is not None and running.running:
            return running
        job: Job[Any] = Job(by, time.time_ns() // 1_000_000)
        self._last[kind] = job
        task = asyncio.create_task(_run(kind, job, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job


def jobs_of(request: Request) -> Jobs:
    """The jobs of this application."""
    state = request.app.state
    jobs: Jobs | None = getattr(state, "console_jobs", None)
    if jobs is None:
        jobs = state.console_jobs = Jobs()
    return jobs


async def _run(kind: str, job: Job[Any], work: Callable[[Job[Any]], Awaitable[Any]]) -> None:
    try:
        job.result = await work(job)
    except (OperationError, LedgerUnavailable, StoreMissing) as error:
        job.problem = str(error)
    except asyncio.CancelledError:
        job.problem = "The console was stopped."
        raise
    except Exception as error:
        job.problem = "It failed unexpectedly; the log has the reason."
        log.error("console_job_failed", kind=kind, **failure(error))
    finally:
        job.ended_at_ms = time.time_ns() // 1_000_000
