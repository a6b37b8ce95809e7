"""Files that commands write: complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gateway.cli.output import fail


@contextmanager
def complete_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when the block has ended well; an earlier one keeps it until then.

    Ends the command if the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                part.unlink()
                raise
        part.replace(path)
    except OSError as error:
        raise fail(f"cannot write {path}: {error.strerror or error}") from None
