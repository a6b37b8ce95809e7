"""A child process for as long as a block runs."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def running(
    command: Sequence[str], *, patience_s: float = 10, **options: Any
) -> "Iterator[subprocess.Popen[Any]]":
    """Start it; when the block ends, ask it to end, and make it end when it does not.

    patience_s: how long it may take to end when asked
    options:    of `subprocess.Popen`
    """
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout is not None:
            child.stdout.close()
