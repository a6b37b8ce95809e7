"""What the hot path packs once per account instead of once per request: key names, ids, limit rows."""

from gateway.domain.limits import LimitRows, pack_limits
from gateway.domain.reservation import Account
from gateway.ledger.keys import Keys


class Known:
    """What is packed once per account: key names, ids, limit rows of the present windows."""

    __slots__ = ("account", "account_key", "due", "ids", "meta", "out", "prefix", "rows", "scopes")

    def __init__(self, account: Account, keys: Keys) -> None:
        shard = account.shard
        self.account = account
        self.prefix = keys.prefix(shard) + b"r:"
        self.due, self.out, self.meta = keys.due(shard), keys.out(shard), keys.meta(shard)
        self.account_key = keys.account(shard, account.customer_id)
        names = (account.customer_id, account.key_id, account.project_id or "")
        self.ids = "\0".join(names).encode()
        self.rows: LimitRows = pack_limits((), 0)
        self.scopes: tuple[bytes, ...] = ()

    def repack(self, keys: Keys, now_ms: int) -> None:
        """Compile the limits for the windows around `now_ms`."""
        account = self.account
        self.rows = pack_limits(account.limits, now_ms, project=account.project_id is not None)
        self.scopes = keys.scopes(account, self.rows.scopes)
