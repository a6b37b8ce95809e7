"""What the nodes of a topology have in common, and where each listens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtest.tls import TlsFiles


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

    def settings(self) -> dict[str, str]:
        """As settings of a server."""
        found = {}
        if self.user:
            found["user"] = f"{self.user} on >{self.password} ~* &* +@all"
            found["masteruser"] = self.user
            found["masterauth"] = self.password
        elif self.password:
            found["requirepass"] = found["masterauth"] = self.password
        if self.tls is not None:
            found |= {
                "tls-cert-file": str(self.tls.certificate),
                "tls-key-file": str(self.tls.key),
                "tls-ca-cert-file": str(self.tls.authority),
                "tls-auth-clients": "no",
                "tls-replication": "yes",
                "tls-cluster": "yes",
            }
        return found


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
