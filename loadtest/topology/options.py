"""What the nodes of a topology have in common, and where each listens."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from loadtest.tls import TlsFiles

Line: TypeAlias = tuple[str, ...]
"""One line of a server's configuration, word by word and not yet quoted."""


@dataclass(frozen=True, slots=True)
class Access:
    """How clients and other nodes enter.

    user:     its name; empty for the default user. With a name, the default user is switched off
    password: empty for none
    tls:      certificates of this server; its only port then speaks TLS. The embedded binary has
              no TLS, Debian's redis-server has
    """

    user: str = ""
    password: str = ""
    tls: TlsFiles | None = None

    def lines(self) -> list[Line]:
        """As lines of a server's configuration, except what it presents to a primary."""
        found: list[Line] = []
        if self.user:
            found.append(("user", "default", "off"))
            found.append(("user", self.user, "on", f">{self.password}", "~*", "&*", "+@all"))
        elif self.password:
            found.append(("requirepass", self.password))
        if self.tls is not None:
            found.append(("tls-cert-file", str(self.tls.certificate)))
            found.append(("tls-key-file", str(self.tls.key)))
            found.append(("tls-ca-cert-file", str(self.tls.authority)))
            found += [("tls-auth-clients", "no"), ("tls-replication", "yes")]
        return found

    def replica_lines(self) -> list[Line]:
        """As lines of a replica's configuration: how it enters its primary."""
        user = [("masteruser", self.user)] if self.user else []
        return [*user, ("masterauth", self.password)] if self.password else []

    def words(self) -> tuple[str, ...]:
        """As the words after AUTH; empty without a password."""
        return (self.user or "default", self.password) if self.password else ()


@dataclass(frozen=True, slots=True)
class Options:
    """What nodes of a topology have in common.

    appendfsync: `always`, `everysec` or `no`
    binary:      of another server, such as Debian's redis-server; empty for the embedded one
    settings:    further settings by name; they win over those of the topology
    """

    appendfsync: str = "everysec"
    binary: str = ""
    access: Access = Access()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens. namespace: the network namespace it runs in; empty for ours."""

    host: str
    port: int
    bus_port: int = 0
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def written(lines: Iterable[Line]) -> str:
    """Write lines as a configuration file, each word in quotes."""
    return "".join(" ".join(map(_quoted, line)) + "\n" for line in lines)


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
