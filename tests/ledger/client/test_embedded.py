"""The embedded server: one per directory, durable, gone with its parent."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from gateway.ledger.client import embedded
from gateway.ledger.client.embedded import (
    MALLOC_TUNABLES,
    EmbeddedLedger,
    EmbeddedLedgerError,
    LedgerInUse,
)

OWNER = """
import signal, sys
from pathlib import Path
from gateway.ledger.client.embedded import EmbeddedLedger
{before}
ledger = EmbeddedLedger(Path(sys.argv[1]))
try:
    ledger.start()
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(1)
try:
    print("started", ledger.pid, flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted", ledger.running, flush=True)
ledger.stop()
print("stopped", flush=True)
"""
NO_PARENT_DEATH_SIGNAL = (
    "import gateway.ledger.client.embedded as e; e.die_with_parent = lambda: None"
)


class Owner:
    """Another process that runs an embedded ledger."""

    def __init__(self, data_dir: Path, before: str = "", *, group: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER.format(before=before), str(data_dir)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=group,
        )

    def says(self) -> list[str]:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 30)[0], "it says nothing"
        return self.process.stdout.readline().split()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def owners() -> Iterator[Callable[..., Owner]]:
    started: list[Owner] = []

    def start(data_dir: Path, before: str = "", *, group: bool = False) -> Owner:
        started.append(Owner(data_dir, before, group=group))
        return started[-1]

    yield start
    for owner in started:
        if owner.process.poll() is None:
            owner.process.terminate()
        owner.process.wait(10)
        assert owner.process.stdout is not None
        owner.process.stdout.close()


def client(ledger: EmbeddedLedger) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(ledger.socket))


def servers_of(data_dir: Path) -> list[int]:
    """Every living server process whose working directory is the data directory."""
    found = []
    for process in psutil.process_iter(["name", "cwd", "status"]):
        info = process.info
        if info["cwd"] == str(data_dir) and "valkey" in (info["name"] or ""):
            found.append(process.pid)
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_written_survives_stop_and_kill(tmp_path: Path) -> None:
    with EmbeddedLedger(tmp_path) as ledger:
        client(ledger).set("kept", "1")
    with EmbeddedLedger(tmp_path) as ledger:
        assert client(ledger).get("kept") == b"1"
        client(ledger).set("kept", "2")
        assert ledger.pid is not None
        os.kill(ledger.pid, signal.SIGKILL)
        wait_for(lambda: not ledger.running)
        url = ledger.url
        ledger.start()
        assert ledger.url == url
        assert client(ledger).get("kept") == b"2"


def test_the_server_is_durable_private_and_not_on_the_network(tmp_path: Path) -> None:
    data_dir = tmp_path / "new"
    with EmbeddedLedger(data_dir) as ledger:
        config = client(ledger).config_get("*")
        assert config["appendonly"] == "yes"
        assert config["appendfsync"] == "always"
        assert config["maxmemory-policy"] == "noeviction"
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE(ledger.socket.stat().st_mode) == 0o700
        assert ledger.pid is not None
        process = psutil.Process(ledger.pid)
        assert process.net_connections("inet") == []
        assert os.getsid(ledger.pid) == ledger.pid
    assert not process.is_running()
    assert not (data_dir / "ledger.sock").exists()
    assert not (data_dir / "server.json").exists()


def test_the_server_keeps_small_pieces_of_memory_at_hand_unless_its_operator_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    with EmbeddedLedger(tmp_path) as ledger:
        assert psutil.Process(ledger.pid).environ()["GLIBC_TUNABLES"] == MALLOC_TUNABLES
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=7")
    with EmbeddedLedger(tmp_path) as ledger:
        own = psutil.Process(ledger.pid).environ()["GLIBC_TUNABLES"]
        assert own == "glibc.malloc.tcache_count=7"


def test_stop_may_be_repeated_and_start_follow(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(tmp_path)
    ledger.stop()
    for _ in range(2):
        ledger.start()
        ledger.start()
        assert len(servers_of(tmp_path)) == 1
        ledger.stop()
        ledger.stop()
        assert servers_of(tmp_path) == []


def test_a_server_that_does_not_listen_is_killed_at_the_end_of_the_grace(tmp_path: Path) -> None:
    ledger = EmbeddedLedger(tmp_path)
    ledger.start()
    assert ledger.pid is not None
    os.kill(ledger.pid, signal.SIGSTOP)
    ledger.stop(grace_s=0.5)
    assert servers_of(tmp_path) == []


def test_a_long_path_gets_a_short_private_socket_which_is_recorded_and_removed(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / ("d" * 120)
    with EmbeddedLedger(data_dir) as ledger:
        path = ledger.socket
        assert not path.is_relative_to(data_dir)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert str(path) in (data_dir / "server.json").read_text()
        assert client(ledger).ping()
        assert ledger.pid is not None
        os.kill(ledger.pid, signal.SIGKILL)
        wait_for(lambda: not ledger.running)
        ledger.start()
        assert ledger.socket == path
    assert not path.parent.exists()


def test_a_socket_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / ("d" * 120)
    with EmbeddedLedger(data_dir) as ledger:
        name = ledger.socket.parent.name
    runtime = tmp_path / "r"
    (runtime / name).mkdir(parents=True)
    (runtime / name).chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with EmbeddedLedger(data_dir) as ledger:
        assert ledger.socket.parent != runtime / name


def test_a_second_start_names_the_first(tmp_path: Path, owners: Callable[..., Owner]) -> None:
    first = owners(tmp_path)
    assert first.says()[0] == "started"
    with pytest.raises(LedgerInUse, match=f"process {first.process.pid}") as caught:
        EmbeddedLedger(tmp_path).start()
    assert caught.value.pid == first.process.pid
    assert len(servers_of(tmp_path)) == 1


def test_of_many_starts_at_once_one_wins(tmp_path: Path, owners: Callable[..., Owner]) -> None:
    contenders = [owners(tmp_path) for _ in range(4)]
    words = [contender.says() for contender in contenders]
    winners = [c for c, said in zip(contenders, words, strict=True) if said[0] == "started"]
    assert len(winners) == 1
    for said in words:
        if said[0] != "started":
            assert said[0] == "LedgerInUse"
            assert str(winners[0].process.pid) in " ".join(said)
    assert len(servers_of(tmp_path)) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no parent-death signal")
def test_the_server_goes_with_its_killed_parent(
    tmp_path: Path, owners: Callable[..., Owner]
) -> None:
    owner = owners(tmp_path)
    _, pid = owner.says()
    owner.kill()
    wait_for(lambda: int(pid) not in servers_of(tmp_path))
    with EmbeddedLedger(tmp_path) as ledger:
        assert client(ledger).ping()


@pytest.mark.parametrize("stopped", [False, True], ids=["healthy", "hanging"])
def test_a_survivor_is_stopped_and_nothing_of_it_is_lost(
    tmp_path: Path, owners: Callable[..., Owner], stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = owners(tmp_path, NO_PARENT_DEATH_SIGNAL)
    pid = int(owner.says()[1])
    with redis.Redis(unix_socket_path=str(tmp_path / "ledger.sock")) as before:
        before.set("kept", "1")
    owner.kill()
    assert servers_of(tmp_path) == [pid]
    if stopped:
        os.kill(pid, signal.SIGSTOP)
        monkeypatch.setattr(embedded, "SURVIVOR_GRACE_S", 1.0)
    with EmbeddedLedger(tmp_path) as ledger:
        assert servers_of(tmp_path) == [ledger.pid]
        assert ledger.pid != pid
        assert client(ledger).get("kept") == b"1"


def test_a_survivor_without_a_record_is_found_by_its_socket(
    tmp_path: Path, owners: Callable[..., Owner]
) -> None:
    owner = owners(tmp_path, NO_PARENT_DEATH_SIGNAL)
    pid = int(owner.says()[1])
    owner.kill()
    (tmp_path / "server.json").unlink()
    with EmbeddedLedger(tmp_path) as ledger:
        assert servers_of(tmp_path) == [ledger.pid] != [pid]


def test_ctrl_c_in_the_terminal_leaves_the_server_to_its_owner(
    tmp_path: Path, owners: Callable[..., Owner]
) -> None:
    owner = owners(tmp_path, group=True)
    assert owner.says()[0] == "started"
    os.killpg(owner.process.pid, signal.SIGINT)
    assert owner.says() == ["interrupted", "True"]
    assert owner.says() == ["stopped"]
    assert servers_of(tmp_path) == []


def test_a_damaged_file_is_an_error_with_the_servers_words(tmp_path: Path) -> None:
    with EmbeddedLedger(tmp_path) as ledger:
        for i in range(100):
            client(ledger).set(f"k{i}", "v")
    [increments] = (tmp_path / "appendonlydir").glob("*.incr.aof")
    data = bytearray(increments.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20] = b"?" * 20
    increments.write_bytes(data)
    with pytest.raises(EmbeddedLedgerError, match=r"exited: .*Bad file format"):
        EmbeddedLedger(tmp_path).start()
    increments.unlink()
    (tmp_path / "appendonlydir" / increments.name).write_bytes(b"")
    with EmbeddedLedger(tmp_path) as ledger:  # the locks of the failed start are free again
        assert client(ledger).ping()


def test_a_long_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LARGEST_LOG_BYTES", 100)
    (tmp_path / "server.log").write_text("old" * 100)
    with EmbeddedLedger(tmp_path):
        assert (tmp_path / "server.log.1").read_text() == "old" * 100


def test_only_the_main_thread_may_start_it(tmp_path: Path) -> None:
    seen: list[Exception] = []

    def start() -> None:
        try:
            EmbeddedLedger(tmp_path).start()
        except EmbeddedLedgerError as error:
            seen.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(seen[0])
    assert servers_of(tmp_path) == []


async def test_the_endpoint_connects(tmp_path: Path) -> None:
    with EmbeddedLedger(tmp_path) as ledger:
        asynchronous = ledger.endpoint.client(name="test")
        assert await asynchronous.ping()
        await asynchronous.aclose()
        await asyncio.sleep(0)
    with (
        contextlib.closing(socket.socket(socket.AF_UNIX)) as nobody,
        pytest.raises(OSError, match="No such file"),
    ):
        nobody.connect(str(ledger.socket))
