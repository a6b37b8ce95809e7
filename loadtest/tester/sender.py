"""One sending process: `python -m loadtest.tester.sender`, started by `session`.

It reads a `Job` from stdin, reports that it is ready, reads when to start, and then reports its
counts every second.

Invariants: the process sends and counts, nothing else; its own lateness and CPU show
whether it, and not the gate, was the limit.
"""

import asyncio
import contextlib
import random
import resource
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import uvloop

from loadtest.arrivals import due_times
from loadtest.generator import Load
from loadtest.requests import Source
from loadtest.tester.deck import shuffled
from loadtest.tester.messages import LENGTH, Aim, Job, Told, packed, unpacked
from loadtest.tester.tally import Recorder

_TELL_EVERY_S: Final = 1.0


def _write(stream: BinaryIO, value: Any) -> None:
    stream.write(packed(value))
    stream.flush()


def _read(stream: BinaryIO) -> Any:
    """Raises EOFError when the other end is gone."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    return unpacked(stream.read(LENGTH.unpack(head)[0]))


async def send(job: Job, start_s: float, out: BinaryIO) -> None:
    """Do the job; start_s is in `time.monotonic` seconds."""
    begin_s = start_s + job.warmup_s
    recorders = {
        aim.name: Recorder(begin_s, begin_s + job.seconds, job.slice_s) for aim in job.aims
    }
    loads = [_load(job, number, aim, recorders[aim.name]) for number, aim in enumerate(job.aims)]
    await asyncio.sleep(max(0.0, start_s - time.monotonic()))
    running = [asyncio.ensure_future(load.run(start_s)) for load in loads]

    def told(*, done: bool) -> Told:
        return Told(
            {name: recorder.take() for name, recorder in recorders.items()},
            sum(load.running for load in loads),
            sum(load.waiting for load in loads),
            done,
        )

    while not all(task.done() for task in running):
        await asyncio.wait(running, timeout=_TELL_EVERY_S)
        _write(out, told(done=False))
    for aim, task in zip(job.aims, running, strict=True):
        for due_s in task.result().unsent:
            recorders[aim.name].on_unsent(due_s, time.monotonic())
    _write(out, told(done=True))


def _load(job: Job, number: int, aim: Aim, recorder: Recorder) -> Load:
    rng = random.Random(f"{job.seed}/{job.part}/{number}")
    host = urlsplit(aim.url).netloc
    source: Source
    arrivals: Iterator[float] | None = None
    if aim.dues_s is not None:
        shots = [card.shot(host, aim.key) for card in aim.cards]
        source = shots.__getitem__
        arrivals = iter(aim.dues_s)
    else:
        source = shuffled(aim.cards, host, aim.key, rng)
        if aim.pace is not None:
            arrivals = due_times(aim.pace, job.spacing, rng, part=job.part, parts=job.parts)
    tls = None
    if aim.url.startswith("https"):
        tls = ssl.create_default_context(cafile=aim.ca_file)
    return Load(
        aim.url,
        source,
        connections=aim.connections,
        seconds=job.warmup_s + job.seconds if arrivals is None else None,
        arrivals=arrivals,
        tls=tls,
        timeout_s=job.timeout_s,
        drain_s=job.timeout_s + 1,
        on_answer=recorder.on_answer,
        on_due=recorder.on_due,
    )


def main() -> None:
    """Entry point of the process."""
    with contextlib.suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session ends us
    out = sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        job: Job = _read(sys.stdin.buffer)
        _write(out, True)
        start_s: float = _read(sys.stdin.buffer)
        uvloop.run(send(job, start_s, out))


if __name__ == "__main__":
    main()
