"""Where a running `creditgate dev` is, kept in its data folder for other commands.

Invariants: the file names a process; once that is gone, the file is ignored.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FILE: Final = "dev.json"


@dataclass(frozen=True, slots=True)
class DevGate:
    """A running `creditgate dev`: its URL, its simulated provider's, its first process."""

    url: str
    provider_url: str
    pid: int


def write(data_dir: Path, gate: DevGate) -> None:
    """Record where it is."""
    staged = data_dir / f".{FILE}.staged"
    staged.write_text(json.dumps(asdict(gate)))
    staged.rename(data_dir / FILE)


def read(data_dir: Path) -> DevGate | None:
    """The one that runs on this folder, if one does."""
    try:
        gate = DevGate(**json.loads((data_dir / FILE).read_text()))
        os.kill(gate.pid, 0)
    except (OSError, ValueError, TypeError):
        return None
    return gate


@contextlib.contextmanager
def kept(data_dir: Path) -> Iterator[None]:
    """Remove at the end what was recorded inside."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            found = read(data_dir)
            if found is not None and found.pid == os.getpid():
                (data_dir / FILE).unlink()
