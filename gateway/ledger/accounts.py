"""What is read and kept off the hot path, through redis-py; balances move in the scripts alone."""

from typing import Any

from redis.asyncio import Redis

from gateway.ledger.admin_access import AdminAccess
from gateway.ledger.bulk import BulkWriter
from gateway.ledger.client import clock
from gateway.ledger.client.cluster.client import is_cluster
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.creation import Creation
from gateway.ledger.customers import CustomerDirectory
from gateway.ledger.hold_reader import HoldReader
from gateway.ledger.key_uses import KeyUses
from gateway.ledger.keys import KeyDirectory
from gateway.ledger.modes import ModeStore
from gateway.ledger.payments import Payments
from gateway.ledger.pricebook import PriceBooks
from gateway.ledger.prices import PriceVersions
from gateway.ledger.recorded_writes import RecordedWrites
from gateway.ledger.wallet_reader import WalletReader


class AccountStore:
    """The readers and directories of one ledger, over one client.

    names: of the ledger's keys in the server. prices: the rows of each version. books: which
    prices are in force. modes: what operators have set
    """

    def __init__(self, client: Redis, *, namespace: str = "cg", shard_count: int = 64) -> None:
        self.names = Keys(namespace, shard_count)
        self.creation = Creation(client, self.names)
        self.wallets = WalletReader(client, self.names)
        self.holds = HoldReader(client, self.names)
        self.customers = CustomerDirectory(client, self.names)
        self.bulk = BulkWriter(client, self.names, self.customers)
        self.keys = KeyDirectory(client, self.names)
        self.key_uses = KeyUses(client, self.names)
        self.prices = PriceVersions(client, self.names)
        self.payments = Payments(client, self.names)
        self.admin_access = AdminAccess(client, self.names)
        self.recorded_writes = RecordedWrites(client, self.names)
        self.books = PriceBooks(
            client, namespace=namespace, plans_in_use=self.customers.plan_counts
        )
        self.modes = ModeStore(client, self.names)
        self.on_cluster = is_cluster(client)
        """Whether some shards may be away while others are not."""
        self._client: Any = client  # its stubs promise text where this client answers bytes

    async def now_ms(self) -> int:
        """The time by the ledger's clock, in Unix ms. Raises LedgerUnavailable."""
        return await clock.now_ms(self._client)
