"""Whose process is whose, found from a port on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest import children
from loadtest.gate import serving, write_config
from loadtest.tester.processes import find, listeners, port_here, use_of


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://127.0.0.1:8080", 8080),
        ("https://localhost", 443),
        ("http://[::1]:81", 81),
        ("https://gate.example.com:8080", None),
        ("http://10.0.0.1:8080", None),
    ],
)
def test_only_a_port_of_this_machine_is_looked_at(url: str, port: int | None) -> None:
    assert port_here(url) == port


def test_who_listens_is_found_and_who_is_named_is_watched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listeners(port) == {os.getpid()}
        found = find("https://gate.example.com", None, {"here": f":{port}", "me": str(os.getpid())})
    assert found == {"here": [os.getpid()], "me": [os.getpid()]}
    assert find("https://gate.example.com", None, {"gone": f":{port}"}) == {}


def test_what_is_gone_has_used_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert use_of([ended.pid]).memory_bytes == 0
    assert use_of([os.getpid()]).memory_bytes > 0


@pytest.mark.slow
def test_a_gate_is_found_with_its_workers_exporter_ledger_and_upstream(tmp_path: Path) -> None:
    with children.provider() as provider, children.valkey(tmp_path) as store:
        config = write_config(tmp_path, provider.url, workers=2, redis_url="embedded")
        with serving(config) as gate:
            found = find(gate.url, provider.url, {})
            assert {
                "supervisor",
                "worker-0",
                "worker-1",
                "exporter-0",
                "ledger",
                "provider",
            } == set(found)
            assert found["supervisor"] == [gate.pid]
            assert found["provider"] == [provider.pid]
            assert found["ledger"] != [store.pid]
