"""The supervisor with real processes, on real sockets, over a trivial service."""

import signal
import socket
import threading
from collections.abc import Callable

import psutil
import pytest

from .conftest import Gate, alive, until

Start = Callable[..., Gate]


def test_serves_on_several_workers_at_one_port(gate: Gate) -> None:
    pids = {gate.ask()[1] for _ in range(64)}
    assert len(pids) == 2


def test_dead_worker_is_replaced_without_refusing_a_connection(start_gate: Start) -> None:
    gate = start_gate(workers=1).wait_ready()
    first = gate.ask()[1]
    for _ in range(3):
        gate.kill_a_worker()
        # The next connections wait in the socket's queue for the replacement.
        greeting, pid = gate.ask()
        assert greeting == "hello"
        assert pid != first
    until(
        lambda: gate.metric('creditgate_process_restarts_total{role="worker"}') == 3,
        "three restarts are counted",
    )


def test_counters_of_dead_workers_stay_in_the_sum(gate: Gate) -> None:
    before = gate.metric("trivial_answers_total")
    for _ in range(10):
        gate.ask()
    assert gate.metric("trivial_answers_total") == before + 10
    gate.kill_a_worker()
    until(lambda: "process_replaced" in gate.log(), "the dead worker is replaced")
    gate.ask()
    until(lambda: gate.metric("trivial_answers_total") == before + 11, "old and new answers add up")


def test_health_is_open_and_metrics_want_the_token(gate: Gate) -> None:
    assert gate.admin("/healthz")[0] == 200
    assert gate.admin("/readyz")[0] == 200
    assert gate.admin("/metrics")[0] == 401
    assert gate.admin("/metrics", "wrong")[0] == 401
    token = gate.running["admin_token"]
    status, text = gate.admin("/metrics", token)
    assert status == 200
    assert 'creditgate_processes_ready{role="worker"} 2.0' in text
    kept = gate.folder / "data" / "admin.token"
    assert kept.read_text().strip() == token
    assert kept.stat().st_mode & 0o777 == 0o600


def test_not_ready_while_the_ledger_cannot_be_reached(gate: Gate) -> None:
    (gate.folder / "ledger_down").touch()
    until(lambda: gate.admin("/readyz")[0] == 503, "readyz says no")
    assert "ledger_unreachable" in gate.admin("/readyz")[1]
    assert gate.admin("/healthz")[0] == 200
    (gate.folder / "ledger_down").unlink()
    until(lambda: gate.admin("/readyz")[0] == 200, "readyz says yes again")


def test_ready_with_a_notice_while_the_store_cannot_be_read(start_gate: Start) -> None:
    gate = start_gate().wait_ready()
    (gate.folder / "store_down").touch()
    until(lambda: "store_unreadable" in gate.admin("/readyz")[1], "readyz says it")
    assert gate.admin("/readyz")[0] == 200
    (gate.folder / "store_down").unlink()
    until(lambda: "store_unreadable" not in gate.admin("/readyz")[1], "readyz says no more")


@pytest.mark.parametrize("by", ["signal", "file"])
def test_reload_changes_all_workers_and_drops_no_request(gate: Gate, by: str) -> None:
    running = [gate.open(b"slow 1\n") for _ in range(8)]
    pids = {p.pid for p in gate.processes()}
    gate.write_config({"greeting": "bonjour"})
    if by == "signal":
        gate.process.send_signal(signal.SIGHUP)
    until(lambda: "configuration_committed" in gate.log(), "the configuration is committed")
    assert {gate.ask()[0] for _ in range(32)} == {"bonjour"}
    for sock in running:
        with sock, sock.makefile("rb") as file:
            assert file.readline().startswith(b"hello ")
    assert {p.pid for p in gate.processes()} == pids


def written(gate: Gate) -> list[str]:
    """The greetings that were written into the ledger, in turn."""
    return (gate.folder / "written").read_text().split()


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"refused_by": "worker-1"}, ["worker-1 does not like it"]),
        ({"unsyncable": True}, ["the ledger refuses an account", "and another"]),
    ],
    ids=["a worker", "the ledger"],
)
def test_reload_that_one_part_refuses_changes_and_writes_nothing(
    gate: Gate, change: dict[str, object], problems: list[str]
) -> None:
    gate.write_config({"greeting": "bonjour", **change})
    until(lambda: "configuration_refused" in gate.log(), "the configuration is refused")
    for problem in problems:
        assert f'"{problem}"' in gate.log(), "each problem has a line of its own"
    assert {gate.ask()[0] for _ in range(32)} == {"hello"}
    assert written(gate) == []
    gate.write_config({"greeting": "salut"})
    until(lambda: "configuration_committed" in gate.log(), "the mended one is committed")
    assert {gate.ask()[0] for _ in range(32)} == {"salut"}
    assert written(gate) == ["salut"]


def test_what_was_written_half_is_written_back(gate: Gate) -> None:
    gate.write_config({"greeting": "bonjour", "unwritable": True})
    until(lambda: "configuration_refused" in gate.log(), "the configuration is refused")
    assert written(gate) == ["bonjour", "hello"]
    assert {gate.ask()[0] for _ in range(32)} == {"hello"}


def test_a_start_that_is_refused_writes_nothing(start_gate: Start) -> None:
    gate = start_gate(unsyncable=True)
    assert gate.process.wait(30) == 1
    assert "the ledger refuses an account" in gate.log()
    assert not (gate.folder / "written").exists()


def test_a_notice_is_logged_once_and_stands_in_readyz_until_it_is_cleared(gate: Gate) -> None:
    gate.write_config({"greeting": "hello", "notices": {"prices_pending": "one differs"}})
    until(lambda: "prices_pending" in gate.admin("/readyz")[1], "readyz shows the notice")
    assert gate.admin("/readyz")[0] == 200
    gate.write_config({"greeting": "salut"})
    until(lambda: "prices_pending_cleared" in gate.log(), "the notice is cleared")
    assert "prices_pending" not in gate.admin("/readyz")[1]
    assert gate.log().count("one differs") == 1


def test_every_problem_of_a_broken_file_is_logged_and_the_old_stays(gate: Gate) -> None:
    (gate.folder / "gate.json").write_text("{")
    until(lambda: "configuration_refused" in gate.log(), "the configuration is refused")
    assert "gate.json: not JSON" in gate.log()
    assert "gate.json: again" in gate.log()
    assert gate.ask()[0] == "hello"


def test_replacement_starts_with_the_configuration_in_force(gate: Gate) -> None:
    gate.write_config({"greeting": "bonjour"})
    until(lambda: "configuration_committed" in gate.log(), "the configuration is committed")
    gate.kill_a_worker()
    until(lambda: "process_replaced" in gate.log(), "the dead worker is replaced")
    assert {gate.ask()[0] for _ in range(32)} == {"bonjour"}


def test_what_cannot_change_while_running_is_named(gate: Gate) -> None:
    gate.write_config({"greeting": "bonjour", "port": 1})
    until(lambda: "needs_a_restart" in gate.log(), "the restart is asked for")
    assert gate.ask()[0] == "bonjour"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_finishes_what_runs_and_leaves_no_process(
    start_gate: Start, number: signal.Signals
) -> None:
    gate = start_gate(workers=2).wait_ready()
    children = gate.processes()
    running = [gate.open(b"slow 2\n") for _ in range(4)]
    gate.ask()
    gate.process.send_signal(number)
    until(lambda: gate.admin("/readyz")[0] == 503, "readyz says no while it drains")
    until(lambda: not gate.accepts(), "new connections are refused")
    for sock in running:
        with sock, sock.makefile("rb") as file:
            assert file.readline().startswith(b"hello ")
    assert gate.process.wait(20) == 0
    assert not alive(children)
    assert (gate.folder / "ledger.log").read_text() == "start\nstop\n"


def test_second_interrupt_hurries(start_gate: Start) -> None:
    gate = start_gate(workers=1, grace_s=100).wait_ready()
    children = gate.processes()
    with gate.open(b"slow 100\n") as sock, sock.makefile("rb") as file:
        until(lambda: psutil.Process(children[0].pid).is_running(), "the worker runs")
        gate.ask()
        gate.process.send_signal(signal.SIGINT)
        until(lambda: gate.admin("/readyz")[0] == 503, "it drains")
        gate.process.send_signal(signal.SIGINT)
        assert file.readline().startswith(b"hello ")
    assert gate.process.wait(20) == 0
    assert not alive(children)


def test_killed_supervisor_leaves_no_process_and_running_work_ends(start_gate: Start) -> None:
    gate = start_gate(workers=2).wait_ready()
    children = gate.processes()
    assert len(children) == 3
    with gate.open(b"slow 1\n") as sock, sock.makefile("rb") as file:
        gate.ask()
        gate.process.kill()
        gate.process.wait()
        assert file.readline().startswith(b"hello ")
    until(lambda: not alive(children), "workers and exporter have ended")
    (gate.folder / "running.json").unlink()
    assert start_gate().wait_ready().ask()[0] == "hello"


def test_second_gate_on_the_same_data_is_refused_by_name(gate: Gate) -> None:
    second = Gate(gate.folder)
    assert second.process.wait(20) == 1
    assert f"another gate (process {gate.process.pid})" in second.log()
    assert "--data-dir" in second.log()
    assert gate.ask()[0] == "hello"


def test_taken_port_is_named_with_the_option_that_changes_it(start_gate: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gate = start_gate(port=port)
        assert gate.process.wait(20) == 1
    assert f"127.0.0.1:{port}" in gate.log()
    assert "--port" in gate.log()
    assert not (gate.folder / "ledger.log").exists()


def test_service_that_cannot_be_built_ends_the_start_with_its_reason(start_gate: Start) -> None:
    gate = start_gate(unbuildable=True)
    assert gate.process.wait(30) == 1
    assert "these settings cannot be built" in gate.log()
    assert (gate.folder / "ledger.log").read_text() == "start\nstop\n"


def test_requests_go_on_while_workers_die_and_reloads_run(gate: Gate) -> None:
    failures: list[BaseException] = []
    greetings: set[str] = set()
    enough = threading.Event()

    def client() -> None:
        try:
            while not enough.is_set():
                greetings.add(gate.ask()[0])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(5):
        gate.write_config({"greeting": f"hello-{number}"})
        gate.process.send_signal(signal.SIGHUP)
        until(lambda n=number: f"hello-{n}" in greetings, "the new greeting is seen")  # type: ignore[misc]
    enough.set()
    for thread in threads:
        thread.join()
    assert not failures
