"""Noticing that configuration files have changed.

The folders are watched rather than the files, for editors and Kubernetes replace a file
instead of writing into it; what counts is that the files' contents differ, so that a rewrite
of the same text, or a neighbour's change, is nothing.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from watchfiles import awatch


def digest(files: Iterable[Path]) -> bytes:
    """What the files hold now, in one value; a file that cannot be read counts as absent."""
    summed = hashlib.sha256()
    for path in sorted(files):
        summed.update(f"\0{path}\0".encode())
        try:
            summed.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            summed.update(b"absent")
    return summed.digest()


async def changes(files: Callable[[], tuple[Path, ...]]) -> AsyncIterator[None]:
    """Yield each time that what the files hold has changed, without end.

    files: called after each change, because a new configuration may name other files
    """
    while True:
        watched = files()
        last = digest(watched)
        folders = {path.resolve().parent for path in watched} | {p.parent for p in watched}
        existing = [folder for folder in folders if folder.is_dir()]
        async for _ in awatch(*existing, recursive=False, debounce=300, step=50):
            now = digest(watched)
            if now != last:
                last = now
                yield
            if set(files()) != set(watched):
                break
