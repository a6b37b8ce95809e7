"""From a configuration to the servers of its ledger, for operations on these and not on what they hold.

Unlike `open_backend` it works while nodes of a cluster are away, and needs no store.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gateway.app.backend import TIMEOUT_S, open_endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.creation import Creation
from gateway.ledger.nodes import LedgerNodes
from gateway.settings import Settings


@asynccontextmanager
async def open_nodes(settings: Settings) -> AsyncIterator[LedgerNodes]:
    """The servers of the ledger. Raises EmbeddedLedgerError, BadLedgerUrl, OtherLedger."""
    with open_endpoint(settings) as servers:
        client = servers.client(name="creditgate-cli", timeout_s=TIMEOUT_S)
        try:
            keys = Keys(settings.redis.namespace, settings.redis.shards)
            with suppress(LedgerUnavailable):  # its node may be what is away
                await Creation(client, keys).check()
            yield LedgerNodes(client, keys, servers.shown)
        finally:
            await client.aclose()
