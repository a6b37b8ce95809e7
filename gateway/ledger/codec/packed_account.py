"""What the hot path packs once per account instead of once per request: key names, ids, limit rows."""

from gateway.domain.limits import LimitRows, pack_limits
from gateway.domain.reservation import Account
from gateway.ledger.codec.key_names import Keys


class PackedAccount:
    """What is packed once per account: key names, ids, limit rows of the present windows.

    rows:   for a model that has no limits of its own
    models: those that have, each with its rows; these count in no more records than the others
    """

    __slots__ = (
        "account",
        "account_key",
        "due",
        "ids",
        "meta",
        "models",
        "out",
        "prefix",
        "rows",
        "scopes",
    )

    def __init__(self, account: Account, keys: Keys) -> None:
        shard = account.shard
        self.account = account
        self.prefix = keys.prefix(shard) + b"r:"
        self.due, self.out, self.meta = keys.due(shard), keys.out(shard), keys.meta(shard)
        self.account_key = keys.account(shard, account.customer_id)
        names = (account.customer_id, account.key_id, account.project_id or "")
        self.ids = "\0".join(names).encode()
        self.rows: LimitRows = pack_limits((), 0)
        self.models: dict[str | None, LimitRows] = {}
        self.scopes: tuple[bytes, ...] = ()

    def repack(self, keys: Keys, now_ms: int) -> None:
        """Compile the limits for the windows around `now_ms`."""
        account = self.account
        project = account.project_id is not None
        self.rows = pack_limits(account.limits, now_ms, project=project)
        self.models = {
            model: pack_limits(account.limits, now_ms, project=project, model=model)
            for model in {limit.model for limit in account.limits if limit.scope == "model"}
        }
        self.scopes = keys.scopes(account, self.rows.scopes)

    def rows_for(self, model: str | None) -> LimitRows:
        """The rows that a request for this model counts under."""
        return self.models.get(model, self.rows) if self.models else self.rows
