"""One primary, its replicas, and the Sentinels that watch them and replace it.

Roles are read each time, since the Sentinels change them. Methods block, raise NodeFailed, and may
be called from any thread, one at a time.
"""

from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import redis

from loadtest.topology.node import Node, NodeFailed, until, wait_all
from loadtest.topology.options import Access, Address, Line, Options
from loadtest.topology.places import LocalPlaces, Places

_P = TypeVar("_P", bound=Node)

SERVICE: Final = "ledger"
LOOK_S: Final = 0.5
"""How long a process may take to say what it sees; one that is cut off takes forever."""
DOWN_AFTER_MS: Final = 1_500
"""Sentinels ping once a second. With a limit of as much, a busy machine's new primary seemed down a
second after it was chosen, and was replaced in turn."""
FAILOVER_TIMEOUT_MS: Final = 3_000
_AWAY: Final = frozenset({"s_down", "o_down", "disconnected", "failover_in_progress"})


class Sentinel(Node):
    """One Sentinel process. It keeps what it learns in its configuration file.

    options: its own; `access` is what it asks of clients and of other Sentinels
    """

    def __init__(
        self, folder: Path, address: Address, options: Options, *, primary: Node, quorum: int
    ) -> None:
        super().__init__(folder, address, options, mode={})
        self._primary = primary
        self._quorum = str(quorum)

    def configuration(self) -> list[Line]:
        """Build the configuration it is first started with."""
        port, own = str(self.address.port), self.options.access
        at, servers = self._primary.address, self._primary.options.access
        lines: list[Line] = [
            ("bind", self.address.host),
            *([("port", port)] if own.tls is None else [("port", "0"), ("tls-port", port)]),
            ("protected-mode", "no"),
            ("dir", str(self.folder)),
            *own.lines(),
            ("sentinel", "monitor", SERVICE, at.host, str(at.port), self._quorum),
            ("sentinel", "down-after-milliseconds", SERVICE, str(DOWN_AFTER_MS)),
            ("sentinel", "failover-timeout", SERVICE, str(FAILOVER_TIMEOUT_MS)),
            *self.options.settings.items(),
        ]
        if servers.user:
            lines.append(("sentinel", "auth-user", SERVICE, servers.user))
        if servers.password:
            lines.append(("sentinel", "auth-pass", SERVICE, servers.password))
        if own.user:
            lines.append(("sentinel", "sentinel-user", own.user))
        if own.password:
            lines.append(("sentinel", "sentinel-pass", own.password))
        return lines

    def command(self) -> list[str]:
        """Build the command line."""
        return [*super().command(), "--sentinel"]

    def primary_address(self) -> tuple[str, int]:
        """Return whom it holds for the primary, host and port. Raises redis.RedisError."""
        host, port = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE, timeout_s=LOOK_S)
        return host, int(port)

    def reachable(self, kind: str) -> int:
        """Count those that it reaches: of the `MASTER`, its `REPLICAS` or the other `SENTINELS`.

        Raises redis.RedisError.
        """
        found = self.ask("SENTINEL", kind, SERVICE, timeout_s=LOOK_S)
        rows = [found] if kind == "MASTER" else found
        flags = [dict(zip(row[::2], row[1::2], strict=True))["flags"].split(",") for row in rows]
        return sum(_AWAY.isdisjoint(one) for one in flags)


class Sentinels:
    """A primary, `replicas` replicas and `sentinels` Sentinels, within a `with` block."""

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 2,
        sentinels: int = 3,
        options: Options | None = None,
        places: Places | None = None,
    ) -> None:
        """folder: a folder per process is made in it; it stays, for its logs

        options: of the servers; the Sentinels have the same binary and TLS, and no password
        places:  where all listen; ports of 127.0.0.1 if None. Closed with the rest
        """
        assert replicas >= 1, "nobody could replace the primary"
        self.folder = folder
        self.options = options or Options()
        self.nodes: list[Node] = []
        self.sentinels: list[Sentinel] = []
        self._places: Places = places or LocalPlaces()
        self._counts = 1 + replicas, sentinels

    def __enter__(self) -> "Sentinels":
        try:
            self._create()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill all processes and give their addresses back. Safe to repeat."""
        for process in [*self.sentinels, *self.nodes]:
            process.kill9()
        self._places.close()

    # What it is now

    @property
    def addresses(self) -> list[Address]:
        """Of the Sentinels: what a client's configuration lists."""
        return [sentinel.address for sentinel in self.sentinels]

    def primary(self) -> Node:
        """Return the primary that all reachable Sentinels agree on. Raises NodeFailed."""
        named = set()
        for sentinel in _thawed(self.sentinels):
            try:
                named.add(sentinel.primary_address())
            except redis.RedisError:
                continue
        found = [node for node in self.nodes if (node.address.host, node.address.port) in named]
        if len(named) != 1 or not found:
            raise NodeFailed(f"the Sentinels name {sorted(named)} as the primary")
        return found[0]

    def replicas(self) -> list[Node]:
        """Return the nodes that follow the primary and have its data. Raises NodeFailed."""
        return [node for node in _thawed(self.nodes) if _follows(node, self.primary())]

    def is_settled(self) -> bool:
        """Whether one primary has all running nodes as replicas in step, and all Sentinels that run
        reach it, its replicas and one another. Raises NodeFailed, redis.RedisError."""
        primary = self.primary()
        others = [node for node in _thawed(self.nodes) if node is not primary]
        if primary.info("replication")["role"] != "master":
            return False
        return all(_follows(node, primary) for node in others) and all(
            self._reaches_all(sentinel, len(others)) for sentinel in _thawed(self.sentinels)
        )

    def wait_settled(self, within_s: float = 60.0) -> None:
        """Wait until `is_settled`: about 10 s after a switch that was not `COORDINATED`, for the
        Sentinels leave an old primary a primary for that long. Raises NodeFailed."""
        until(self.is_settled, "a primary, its replicas and Sentinels that agree", within_s)

    # Failures and their mending

    def kill(self, primary: Node) -> Node:
        """Kill the primary with -9; return the one the Sentinels made of a replica."""
        primary.kill9()
        return self.wait_for_switch(primary)

    def freeze(self, primary: Node) -> Node:
        """Freeze the primary; return the one the Sentinels made of a replica."""
        primary.freeze()
        return self.wait_for_switch(primary)

    def failover(self, how: str = "") -> Node:
        """Have a Sentinel replace the healthy primary; return the new one.

        how: empty, so that nothing waits for the replica to have everything and writes may be lost;
             `COORDINATED` (Valkey 9), so that the primary hands over and loses nothing
        """
        old = self.primary()
        words = ("FAILOVER", SERVICE, how) if how else ("FAILOVER", SERVICE)
        _thawed(self.sentinels)[0].ask("SENTINEL", *words)
        return self.wait_for_switch(old)

    def wait_for_switch(self, old: Node, within_s: float = 60.0) -> Node:
        """Wait until all reachable Sentinels name another primary than `old`, and it takes writes."""
        chosen: list[Node] = []

        def is_switched() -> bool:
            new = self.primary()
            chosen[:] = [new]
            return new is not old and new.info("replication")["role"] == "master"

        until(is_switched, f"another primary than {old}", within_s)
        return chosen[0]

    def rejoin(self, node: Node) -> None:
        """Restart or thaw a node that was replaced; return when it is a replica in step.

        A restarted one is a primary at first: its configuration says so, and the Sentinels, which
        did not reach it, correct it only when it has been back for about 10 s.
        """
        if node.running:
            node.thaw()
        else:
            node.restart()
        until(lambda: _follows(node, self.primary()), f"{node} as a replica", 60.0)
        self.wait_settled()

    # Creation

    def _create(self) -> None:
        servers, sentinels = self._counts
        for n in range(servers):
            folder = self.folder / f"node-{n}"
            self.nodes.append(Node(folder, self._places.take(), self.options, mode={}))
        primary, *replicas = self.nodes
        own = Options(binary=self.options.binary, access=Access(tls=self.options.access.tls))
        for n in range(sentinels):
            folder, quorum = self.folder / f"sentinel-{n}", sentinels // 2 + 1
            at = self._places.take()
            self.sentinels.append(Sentinel(folder, at, own, primary=primary, quorum=quorum))
        for node in self.nodes:
            node.start()
        wait_all(self.nodes)
        for node in replicas:
            node.ask("REPLICAOF", primary.address.host, primary.address.port)
            node.ask("CONFIG", "REWRITE")
        # A Sentinel looks for replicas when it starts, and then not for ten seconds.
        until(lambda: all(_follows(node, primary) for node in replicas), f"replicas of {primary}")
        for sentinel in self.sentinels:
            sentinel.start()
        wait_all(self.sentinels)
        self.wait_settled()

    def _reaches_all(self, sentinel: Sentinel, replicas: int) -> bool:
        """Whether it has connections to all others; before that, it finds no majority."""
        peers = len(_thawed(self.sentinels)) - 1
        return (
            sentinel.reachable("MASTER") == 1
            and sentinel.reachable("REPLICAS") >= replicas
            and sentinel.reachable("SENTINELS") >= peers
        )


def _thawed(processes: "list[_P]") -> "list[_P]":
    return [process for process in processes if process.running and not process.frozen]


def _follows(node: Node, primary: Node) -> bool:
    said = node.info("replication")
    at = primary.address
    return (
        said["role"] == "slave"
        and (said["master_host"], said["master_port"]) == (at.host, str(at.port))
        and said["master_link_status"] == "up"
    )
