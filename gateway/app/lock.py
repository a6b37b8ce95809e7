"""One gate per data folder: a lock that ends with the process that holds it."""

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType

from gateway.app.parts import CannotStart
from gateway.app.private import check_folder


class FolderLock:
    """Held as a context manager. Children do not inherit it, so a killed supervisor's
    draining workers do not keep its successor from starting."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "supervisor.lock"
        self._descriptor = -1

    def __enter__(self) -> None:
        """Raises CannotStart if another gate holds it, if the folder cannot be written, or if other
        users can enter it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_folder(self._path.parent)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            folder, why = self._path.parent, os.strerror(error.errno or 0)
            raise CannotStart(f"cannot use the data folder {folder}: {why} (--data-dir)") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise CannotStart(
                f"another gate (process {holder}) runs on the data folder {self._path.parent}: "
                "stop it, or choose another folder (--data-dir)"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
