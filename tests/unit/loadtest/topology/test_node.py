"""One server: its death, its return, its silence, and the death of whoever started it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis

from loadtest.topology.node import Node, NodeFailed, until
from loadtest.topology.options import Options
from tests.support.topology import Topologies, topologies

__all__ = ["topologies"]

STARTS_ONE = """\
import pathlib, sys, time
from loadtest.topology.node import Node
from loadtest.topology.options import Options
from loadtest.topology.places import LocalPlaces
node = Node(pathlib.Path(sys.argv[1]), LocalPlaces().take(), Options(), mode={})
node.start()
node.wait_ready()
node.freeze()
print(node.pid, flush=True)
time.sleep(60)
"""


def test_a_killed_node_returns_with_its_data_at_its_address(topologies: Topologies) -> None:
    node = topologies.node(Options(appendfsync="always"))
    node.ask("SET", "a", 1)
    before = node.pid
    node.kill9()
    assert not node.running
    assert node.pid is None
    with pytest.raises(redis.ConnectionError):
        node.ask("PING")
    node.restart()
    assert node.ask("GET", "a") == "1"
    assert node.pid != before


def test_what_a_server_writes_into_its_configuration_outlasts_a_restart(
    topologies: Topologies,
) -> None:
    node = topologies.node()
    node.ask("CONFIG", "SET", "maxclients", 77)
    node.ask("CONFIG", "REWRITE")
    node.restart()
    assert node.ask("CONFIG", "GET", "maxclients") == ["maxclients", "77"]


def test_a_frozen_node_is_silent_until_it_is_thawed(topologies: Topologies) -> None:
    node = topologies.node()
    node.freeze()
    with pytest.raises(redis.TimeoutError):
        node.ask("PING", timeout_s=0.2)
    assert node.running
    node.thaw()
    assert node.ask("PING") == "PONG"


def test_a_frozen_node_can_be_terminated(topologies: Topologies) -> None:
    node = topologies.node()
    node.freeze()
    node.terminate()
    assert not node.running
    assert "ready to exit" in node.log_tail()


def test_a_node_outlives_the_thread_that_started_it(topologies: Topologies) -> None:
    node = topologies.node()
    thread = threading.Thread(target=node.restart)
    thread.start()
    thread.join()
    time.sleep(0.1)  # the signal would come at the thread's end
    assert node.ask("PING") == "PONG"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no parent-death signal")
def test_even_a_frozen_node_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS_ONE, str(tmp_path / "node")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        assert server.is_running()
        os.kill(parent.pid, signal.SIGKILL)
    server.wait(10)


def test_a_node_that_does_not_start_raises_with_its_log(topologies: Topologies) -> None:
    with pytest.raises(NodeFailed, match="no-such-setting"):
        topologies.node(Options(settings={"no-such-setting": "1"}))


def test_whoever_else_listens_on_the_port_is_not_taken_for_the_node(
    topologies: Topologies, tmp_path: Path
) -> None:
    first = topologies.node()
    second = Node(tmp_path / "second", first.address, Options(), mode={})
    second.start()
    with pytest.raises(NodeFailed, match="Address already in use"):
        second.wait_ready()


def test_until_says_what_it_waited_for_and_the_last_error() -> None:
    def refused() -> bool:
        raise redis.ConnectionError("away")

    with pytest.raises(NodeFailed, match=r"not within 0\.1 s: a miracle: away"):
        until(refused, "a miracle", 0.1)
