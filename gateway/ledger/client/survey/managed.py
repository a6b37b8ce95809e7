"""Which managed service runs a server, by its host name or by what INFO says.

Host names are those of the services' documentation:
- "Finding connection endpoints in ElastiCache" and "Finding connection endpoints" of MemoryDB (AWS);
- "How to configure Azure Cache for Redis" and "Azure Managed Redis" (Microsoft);
- "Connect your client" (Upstash), "Connect to a Redis Cloud database" (Redis).
INFO fields are those that users of the services have published: `os:Amazon ElastiCache`,
`os:Amazon MemoryDB`, `upstash_version`, `rlec_version` (Redis Enterprise, which also runs Azure
Managed Redis, so the host name is asked first). None was tried on the service itself.

Memorystore gives addresses without names and its INFO is not documented: it is not recognised.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ManagedService:
    """A service that runs the server. sentence: what matters there most. page: in the documentation"""

    name: str
    sentence: str
    page: str


_ELASTICACHE: Final = ManagedService(
    "Amazon ElastiCache",
    "CONFIG is blocked, the default maxmemory-policy evicts (volatile-lru), and without the durability"
    " option of Valkey 9 nothing is on disk: a failover may lose the last writes.",
    "docs/how-to/managed/elasticache.md",
)
_MEMORYDB: Final = ManagedService(
    "Amazon MemoryDB",
    "CONFIG is blocked; a write is in a log in several zones before it is answered, so a failover"
    " loses none: declare `durability: always`.",
    "docs/how-to/managed/memorydb.md",
)
_AZURE: Final = ManagedService(
    "Azure Cache for Redis",
    "Basic, Standard and Premium run Redis 6 at most, which is too old for the ledger, and the service"
    " retires: use Azure Managed Redis.",
    "docs/how-to/managed/azure.md",
)
_AZURE_MANAGED: Final = ManagedService(
    "Azure Managed Redis",
    "The default eviction policy evicts (VolatileLRU): choose NoEviction. With the OSS clustering policy"
    " write redis+cluster:// URLs, with the Enterprise policy rediss://.",
    "docs/how-to/managed/azure.md",
)
_UPSTASH: Final = ManagedService(
    "Upstash",
    "Replicas converge by last writer wins, so after a split a balance may be spent twice; whether"
    " the ledger's scripts run is shown below and was not tried.",
    "docs/how-to/managed/upstash.md",
)
_REDIS_CLOUD: Final = ManagedService(
    "Redis Cloud",
    "The default eviction policy evicts (volatile-lru): choose `no eviction`, and declare what the"
    " database's data persistence is, since CONFIG GET does not show it.",
    "docs/how-to/managed/redis-cloud.md",
)

_BY_HOST: Final = (
    (re.compile(r"\.memorydb(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?$"), _MEMORYDB),
    (re.compile(r"\.cache\.amazonaws\.com(\.cn)?$"), _ELASTICACHE),
    (re.compile(r"\.redis\.cache\.(windows\.net|chinacloudapi\.cn)$"), _AZURE),
    (re.compile(r"\.redisenterprise\.cache\.azure\.net$"), _AZURE_MANAGED),
    (re.compile(r"\.redis\.azure\.(net|cn)$"), _AZURE_MANAGED),
    (re.compile(r"\.upstash\.io$"), _UPSTASH),
    (re.compile(r"\.(redislabs\.com|redis-cloud\.com)$"), _REDIS_CLOUD),
)
_BY_INFO: Final = (
    ("os", "Amazon ElastiCache", _ELASTICACHE),
    ("os", "Amazon MemoryDB", _MEMORYDB),
    ("upstash_version", "", _UPSTASH),
    ("rlec_version", "", _REDIS_CLOUD),
)


def recognise(hosts: Iterable[str], info: Mapping[str, Any]) -> ManagedService | None:
    """The service behind these host names (without port), or behind this INFO; None if none is known."""
    names = [host.lower().rstrip(".") for host in hosts]
    for pattern, service in _BY_HOST:
        if any(pattern.search(name) for name in names):
            return service
    for field, begins, service in _BY_INFO:
        if str(info.get(field, "\0")).startswith(begins) and field in info:
            return service
    return None
