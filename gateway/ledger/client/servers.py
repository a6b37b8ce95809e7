"""From the URL of the ledger to the servers behind it: one, those that Sentinels watch, or a cluster's."""

from typing import Any

from gateway.ledger.client.cluster.endpoint import SCHEMES as CLUSTER_SCHEMES
from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from gateway.ledger.client.cluster.runner import ClusterRunner
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.client.sentinel.endpoint import SCHEMES as SENTINEL_SCHEMES
from gateway.ledger.client.sentinel.endpoint import SentinelEndpoint

Servers = Endpoint | ClusterEndpoint
"""Where the ledger is."""
HotRunner = CoalescingRunner | ClusterRunner
"""What runs scripts on the hot path."""


def locate(url: str) -> Servers:
    """Read any URL of a ledger. Raises BadLedgerUrl."""
    if url.partition("://")[0] in CLUSTER_SCHEMES:
        return ClusterEndpoint.from_url(url)
    if url.partition("://")[0] in SENTINEL_SCHEMES:
        return SentinelEndpoint.from_url(url)
    return Endpoint.from_url(url)


def open_runner(servers: Servers, *, name: str, **options: Any) -> HotRunner:
    """A runner for the hot path, not started. options: of `CoalescingRunner`"""
    if isinstance(servers, ClusterEndpoint):
        return servers.runner(name=name, **options)
    return CoalescingRunner(servers, name=name, **options)
