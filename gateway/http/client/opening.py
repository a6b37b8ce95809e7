"""Opens connections to one origin, and says what failed. TLS contexts for upstreams."""

import asyncio
import errno
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.http.client.connection import Home, UpstreamConnection
from gateway.http.upstream_interface import UpstreamCause, UpstreamError


def upstream_tls(
    *,
    ca_file: Path | None = None,
    verify: bool = True,
    client_certificate: Path | None = None,
    client_key: Path | None = None,
) -> ssl.SSLContext:
    """A TLS context for an upstream: system CAs unless `ca_file`. Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client_certificate is not None:
        context.load_cert_chain(client_certificate, client_key)
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream listens.

    authority:    the value of Host
    path:         the base URL's path, without a slash at its end
    tls:          None for http
    server_name:  for SNI and the certificate; None for http
    """

    host: str
    port: int
    authority: str
    path: str
    tls: ssl.SSLContext | None
    server_name: str | None

    @classmethod
    def from_url(
        cls, base_url: str, tls: ssl.SSLContext | None, server_name: str | None
    ) -> "Origin":
        """tls: for https; None makes one with the system's CAs. server_name: when it is not the host.

        Raises ValueError when the URL is not an http(s) origin with an optional path.
        """
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{base_url!r} is not an http:// or https:// URL")
        if url.username is not None or url.query or url.fragment:
            raise ValueError("an upstream's URL carries no credentials, query or fragment")
        secure = url.scheme == "https"
        return cls(
            host=url.hostname,
            port=url.port or (443 if secure else 80),
            authority=url.netloc,
            path=url.path.rstrip("/"),
            tls=(tls or upstream_tls()) if secure else None,
            server_name=(server_name or url.hostname) if secure else None,
        )


def unsent(upstream: str, what: str, cause: UpstreamCause) -> UpstreamError:
    """What kept a request from being sent."""
    return UpstreamError(f"upstream {upstream} {what}", sent=False, cause=cause)


async def open_connection(
    upstream: str, origin: Origin, home: Home, connect_s: float
) -> UpstreamConnection:
    """Resolve, connect, shake hands. Raises UpstreamError(sent=False)."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(connect_s):
            _, connection = await loop.create_connection(
                lambda: UpstreamConnection(loop, home),
                origin.host,
                origin.port,
                ssl=origin.tls,
                server_hostname=origin.server_name,
            )
    except TimeoutError:
        raise unsent(upstream, "could not be connected to in time", "timeout") from None
    except ssl.SSLError as error:
        raise unsent(upstream, f"failed the TLS handshake ({error.reason})", "tls") from None
    except socket.gaierror as error:
        code = _RESOLVER_CODES.get(error.errno or 0, "unknown")
        raise unsent(upstream, f"has a name that does not resolve ({code})", "dns") from None
    except OSError as error:
        number = _error_number(error)
        code = errno.errorcode.get(number, type(error).__name__)
        cause = _CAUSES.get(number, "unreachable")
        raise unsent(upstream, f"could not be connected to ({code})", cause) from None
    if not connection.usable:
        raise unsent(upstream, "closed the connection at once", "closed")
    return connection


_CAUSES: Final[dict[int, UpstreamCause]] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "reset",
    errno.ETIMEDOUT: "timeout",
}
_RESOLVER_CODES: Final = {
    getattr(socket, name): name for name in dir(socket) if name.startswith("EAI_")
}
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def _error_number(error: OSError) -> int:
    """Its number; of one for several attempts (IPv6, IPv4), the number that they share."""
    if error.errno:
        return error.errno
    numbers = {int(number) for number in _ERRNO.findall(str(error))}
    return numbers.pop() if len(numbers) == 1 else 0
