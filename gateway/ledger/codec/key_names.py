"""Names of the ledger's keys; the table is in `lua/README.md`. All keys of a shard share its hash tag."""

from dataclasses import dataclass

from gateway.domain.reservation import Account, shard_of


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one namespace.

    shard_count: fixed when the ledger is created (`creation.py` checks it)
    """

    namespace: str = "cg"
    shard_count: int = 64

    def shard_of(self, customer_id: str) -> int:
        """The shard that a customer's records live in."""
        return shard_of(customer_id, self.shard_count)

    def prefix(self, shard: int) -> bytes:
        """What every key of a shard begins with."""
        return b"{%s:%d}:" % (self.namespace.encode(), shard)

    def meta(self, shard: int) -> bytes:
        """The shard record."""
        return self.prefix(shard) + b"meta"

    def out(self, shard: int) -> bytes:
        """The outbox."""
        return self.prefix(shard) + b"out"

    def due(self, shard: int) -> bytes:
        """Deadlines."""
        return self.prefix(shard) + b"due"

    def loss(self, shard: int) -> bytes:
        """What is known of entries that the shard has lost."""
        return self.prefix(shard) + b"loss"

    def shut(self, shard: int) -> bytes:
        """Wallets that a repair has frozen, and why."""
        return self.prefix(shard) + b"shut"

    def customers(self, shard: int) -> bytes:
        """Customer ids of the shard."""
        return self.prefix(shard) + b"customers"

    def account(self, shard: int, customer_id: str) -> bytes:
        """A wallet's record."""
        return self.prefix(shard) + b"a:" + customer_id.encode()

    def record(self, shard: int, customer_id: str) -> bytes:
        """What is kept of a customer besides money."""
        return self.prefix(shard) + b"c:" + customer_id.encode()

    def directory(self, shard: int) -> bytes:
        """Ids of the customers that have a record, in the order of their bytes."""
        return self.prefix(shard) + b"directory"

    def plan_counts(self, shard: int) -> bytes:
        """How many of those customers each plan has."""
        return self.prefix(shard) + b"plan_counts"

    def keys_of(self, shard: int, customer_id: str) -> bytes:
        """Digests of a customer's API keys."""
        return self.prefix(shard) + b"keys:" + customer_id.encode()

    def ops(self, shard: int, customer_id: str) -> bytes:
        """What grants and adjustments of a customer did, by operation id."""
        return self.prefix(shard) + b"ops:" + customer_id.encode()

    def reservation(self, shard: int, reservation_id: str) -> bytes:
        """A hold, or its tombstone."""
        return self.prefix(shard) + b"r:" + reservation_id.encode()

    def note(self, shard: int, op_id: str) -> bytes:
        """That an entry about a change that moves no balance was written."""
        return self.prefix(shard) + b"n:" + op_id.encode()

    def once(self, shard: int, digest: str) -> bytes:
        """The record of an Idempotency-Key."""
        return self.prefix(shard) + b"i:" + digest.encode()

    def scopes(self, account: Account, mask: int) -> tuple[bytes, ...]:
        """Records other than the wallet that limits count in: mask 1 the project's, plus 2 the key's."""
        project, key = self.scope_keys(
            account.shard, account.customer_id, account.project_id or "", account.key_id
        )
        return ((project,) if mask & 1 else ()) + ((key,) if mask & 2 else ())

    def scope_keys(
        self, shard: int, customer_id: str, project_id: str, key_id: str
    ) -> tuple[bytes, bytes]:
        """The scope records of a customer's project and key."""
        prefix, customer = self.prefix(shard), customer_id.encode()
        return (
            prefix + b"p:%s:%s" % (customer, project_id.encode()),
            prefix + b"k:%s:%s" % (customer, key_id.encode()),
        )

    def common(self, name: str) -> bytes:
        """A key that belongs to no shard, such as `creation`. `lease` alone is a script on one."""
        return b"{%s}:%s" % (self.namespace.encode(), name.encode())
