"""Clusters and Sentinels of a test's own, stopped at its end; import the fixtures where needed.

The harness blocks: in a test whose event loop must go on, call it by `asyncio.to_thread`.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.topology import hosts
from loadtest.topology.cluster import Cluster
from loadtest.topology.hosts import Network
from loadtest.topology.node import Node
from loadtest.topology.options import Options
from loadtest.topology.places import LocalPlaces
from loadtest.topology.sentinels import Sentinels


class Topologies:
    """Starts what a test asks for; all of it ends with the fixture."""

    def __init__(self, folder: Path, ends: contextlib.ExitStack) -> None:
        self._folder = folder
        self._ends = ends
        self._started = 0

    def node(self, options: Options | None = None) -> Node:
        """One server that answers, without a topology."""
        places = LocalPlaces()
        self._ends.callback(places.close)
        node = Node(self._new_folder(), places.take(), options or Options(), mode={})
        self._ends.callback(node.kill9)
        node.start()
        node.wait_ready()
        return node

    def cluster(self, **arguments: Any) -> Cluster:
        """A cluster in agreement. arguments: of `Cluster`"""
        return self._ends.enter_context(Cluster(self._new_folder(), **arguments))

    def sentinels(self, **arguments: Any) -> Sentinels:
        """Sentinels and servers, settled. arguments: of `Sentinels`"""
        return self._ends.enter_context(Sentinels(self._new_folder(), **arguments))

    def network(self) -> Network:
        """A network for `places`; skips the test, with the reason, where none can be made."""
        reason = hosts.why_unavailable()
        if reason:
            pytest.skip(f"no network namespaces: {reason}")
        return self._ends.enter_context(Network())

    def _new_folder(self) -> Path:
        self._started += 1
        return self._folder / f"topology-{self._started}"


@pytest.fixture
def topologies(tmp_path: Path) -> Iterator[Topologies]:
    """For one test."""
    with contextlib.ExitStack() as ends:
        yield Topologies(tmp_path, ends)


@pytest.fixture(scope="module")
def shared_topologies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topologies]:
    """For the tests of one module, each of which must leave healthy what it breaks."""
    with contextlib.ExitStack() as ends:
        yield Topologies(tmp_path_factory.mktemp("shared"), ends)
