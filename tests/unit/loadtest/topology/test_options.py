"""Options as a configuration that a server reads back."""

from pathlib import Path

import pytest
import redis

from loadtest.topology.node import Node
from loadtest.topology.options import Access, Options, written
from tests.support.topology import Topologies, topologies

__all__ = ["topologies"]

PASSWORD = "p@ss w'o\"r\\d#1"


def test_words_are_quoted() -> None:
    lines = [("save", ""), ("requirepass", PASSWORD)]
    assert written(lines) == '"save" ""\n"requirepass" "p@ss w\'o\\"r\\\\d#1"\n'


def test_settings_win_over_the_defaults(topologies: Topologies) -> None:
    node = topologies.node(Options(appendfsync="always", settings={"maxmemory": "200mb"}))
    found = node.ask("CONFIG", "GET", "appendfsync", "maxmemory", "maxmemory-policy", "save")
    assert dict(zip(found[::2], found[1::2], strict=True)) == {
        "appendfsync": "always",
        "maxmemory": str(200 << 20),
        "maxmemory-policy": "noeviction",
        "save": "",
    }


@pytest.mark.parametrize("user", ["", "gate"])
def test_a_password_is_required(user: str, topologies: Topologies, tmp_path: Path) -> None:
    node = topologies.node(Options(access=Access(user, PASSWORD)))
    assert node.ask("ACL", "WHOAMI") == (user or "default")
    stranger = Node(tmp_path / "never started", node.address, Options(), mode={})
    with pytest.raises(redis.AuthenticationError):
        stranger.ask("PING")
