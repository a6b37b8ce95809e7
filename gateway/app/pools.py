"""Connection pools of upstreams, kept across reloads while nothing about them changes."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from gateway.app.roles import CannotServe
from gateway.app.upstreams import upstream_context
from gateway.flow.blanking import blank_in
from gateway.http.client.limits import PoolLimits, UpstreamTimeouts
from gateway.http.client.pool import UpstreamPool
from gateway.settings.forwarding import upstream_secrets
from gateway.settings.upstreams import UpstreamSection


@dataclass(frozen=True, slots=True)
class PoolKey:
    """Two pools are the same while their sections and the bytes of their certificates are."""

    section: UpstreamSection
    certificates: bytes


Pools = Mapping[str, tuple[PoolKey, UpstreamPool]]
"""By the upstream's name."""


class PoolRegistry:
    """Makes pools, and remembers all that may still have open connections.

    A pool that a later configuration drops is not closed: running requests finish on it, and its
    idle connections close after some seconds. Weak references suffice to close the rest at the end.
    """

    def __init__(self) -> None:
        self._every: WeakSet[UpstreamPool] = WeakSet()

    def __len__(self) -> int:
        return len(self._every)

    def __iter__(self) -> Iterator[UpstreamPool]:
        return iter(list(self._every))

    def pools(self, sections: Mapping[str, UpstreamSection], present: Pools) -> Pools:
        """A pool for each section; unchanged ones are taken from `present`. Raises CannotServe."""
        return {name: self._pool(name, section, present) for name, section in sections.items()}

    async def close(self) -> None:
        """Close every connection."""
        for pool in self:
            await pool.close()

    def _pool(
        self, name: str, section: UpstreamSection, present: Pools
    ) -> tuple[PoolKey, UpstreamPool]:
        times, tls = section.timeouts, section.tls
        try:
            key = PoolKey(section, _digest_of(tls.ca_file, tls.client_cert, tls.client_key))
        except OSError as error:
            raise CannotServe(
                f"upstreams.{name}.tls: the certificates cannot be read ({type(error).__name__})"
            ) from error
        known = present.get(name)
        if known is not None and known[0] == key:
            return known  # its connections stay warm
        secrets = upstream_secrets(section)
        pool = UpstreamPool(
            name,
            str(section.base_url),
            timeouts=UpstreamTimeouts(
                connect_ms=times.connect_ms,
                head_ms=times.head_ms,
                between_ms=times.between_bytes_ms,
                total_ms=times.total_ms,
            ),
            tls=upstream_context(name, section),
            server_name=tls.server_name,
            query=section.query_text,
            limits=PoolLimits(
                connections_most=section.max_connections,
                separate=section.pool == "per_customer",
            ),
            inspect=blank_in(secrets) if secrets else None,
            breaker=section.breaker.limits(),
        )
        self._every.add(pool)
        return key, pool


def _digest_of(*files: Path | None) -> bytes:
    """One digest over the contents of all files. Raises OSError."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(b"-" if file is None else hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()
