"""ClickHouse servers on free ports, for tests and measurements: Debian's, and a
stand-in that needs only the package registry.

Debian's `clickhouse-server` is the real thing, of 2018 (18.16). The stand-in is ClickHouse 26 inside a process of
Python (`chdb`) behind a minimal imitation of the HTTP interface: statements, tables, merges and messages are
ClickHouse's; connections, users, statuses and time-outs are not.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from gateway.exporter.sinks.options import ClickHouseOptions
from loadtest.ports import free_ports

DEBIAN = "/usr/sbin/clickhouse-server"
PASSWORD = 'Zoë\'s "secret" 100 %'
_numbers = itertools.count(1)

CONFIG = """<yandex>
<logger><level>warning</level><log>{folder}/log</log><errorlog>{folder}/errors</errorlog></logger>
<http_port>{port}</http_port><listen_host>127.0.0.1</listen_host>
<path>{folder}/data/</path><tmp_path>{folder}/data/tmp/</tmp_path>
<users_config>users.xml</users_config>
<default_profile>default</default_profile><default_database>default</default_database>
<mark_cache_size>50000000</mark_cache_size>
</yandex>"""
USERS = """<yandex>
<profiles><default></default><reading><readonly>1</readonly></reading></profiles>
<users>
<default><password></password><networks><ip>127.0.0.1</ip></networks>
<profile>default</profile><quota>default</quota></default>
<gate><password>{password}</password><networks><ip>127.0.0.1</ip></networks>
<profile>default</profile><quota>default</quota></gate>
<reader><password></password><networks><ip>127.0.0.1</ip></networks>
<profile>reading</profile><quota>default</quota></reader>
</users>
<quotas><default></default></quotas>
</yandex>"""


class ClickHouseServer:
    """One server in a folder, on a free port that stays the same when it is started again."""

    def __init__(self, folder: Path, *, debian: bool) -> None:
        self.folder = folder
        self.debian = debian
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, __file__, str(self.folder / "data"), str(self.port)]
        if self.debian:
            config = CONFIG.format(folder=self.folder, port=self.port)
            (self.folder / "config.xml").write_text(config)
            (self.folder / "users.xml").write_text(USERS.format(password=PASSWORD))
            command = [DEBIAN, f"--config-file={self.folder}/config.xml"]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.folder)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/?query=SELECT%201", timeout=5).read()
                return
            assert self.process.poll() is None, (self.folder / "output").read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it with a signal, paused or not. Idempotent."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def pause(self) -> None:
        """Let it answer nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `pause`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def options(self, **changed: Any) -> ClickHouseOptions:
        """Options for a database that is not there yet."""
        name = f"t{os.getpid()}_{next(_numbers)}"
        return ClickHouseOptions(self.url, **{"database": name, **changed})

    def ask(self, statement: str, database: str = "default") -> list[dict[str, Any]]:
        """Carry out a statement; the lines of its answer."""
        settings = {"database": database, "output_format_json_quote_64bit_integers": "0"}
        if statement.startswith("SELECT"):
            statement += " FORMAT JSONEachRow"
        where = f"{self.url}/?{urllib.parse.urlencode(settings)}"
        with urllib.request.urlopen(where, statement.encode(), timeout=30) as answer:
            return [orjson.loads(line) for line in answer.read().splitlines()]


@contextlib.contextmanager
def running(folder: Path, *, debian: bool) -> Iterator[ClickHouseServer]:
    """A server with its data in this folder."""
    server = ClickHouseServer(folder, debian=debian)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


def stand_in(folder: str, port: int) -> None:
    """Serve ClickHouse's statements over HTTP. Raises nothing: what ClickHouse refuses is status 500."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from chdb.session import Session

    session: Any = Session(folder)  # type: ignore[no-untyped-call]
    lock = threading.Lock()

    def carry_out(query: dict[str, str], body: bytes) -> bytes:
        given = query.pop("query", "")
        database = query.pop("database", "default")
        for name in ("wait_end_of_query", "default_format"):
            query.pop(name, None)
        settings = ", ".join(f"{name} = '{value}'" for name, value in query.items())
        with_settings = f" SETTINGS {settings}" if settings else ""
        with lock:
            session.query(f"USE {database}")
            if given.startswith("INSERT"):
                into, _, form = given.rpartition(" FORMAT ")
                with session.send_insert(into + with_settings, form) as inserter:
                    inserter.append(body)
                    inserter.finish()
                return b""
            statement = (given or body.decode()).removesuffix(" FORMAT JSONEachRow")
            reads = statement.lstrip().startswith("SELECT")
            if not reads:
                with_settings = ""
            answer = session.query(statement + with_settings, "JSONEachRow")
            return bytes(answer.bytes()) if reads else b""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urllib.parse.urlsplit(self.path).query
            query = dict(urllib.parse.parse_qsl(parts, keep_blank_values=True))
            try:
                status, answer = 200, carry_out(query, body)
            except Exception as error:
                status, answer = 500, str(error).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST  # noqa: N815 - the name that the base class calls

        def log_message(self, *_: Any) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    stand_in(sys.argv[1], int(sys.argv[2]))
