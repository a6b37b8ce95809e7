"""The packed form of an account: what every call of it shares, packed once."""

from gateway.domain.limits import LimitRows, pack_limits
from gateway.domain.reservation import Account
from gateway.ledger.codec.key_names import Keys


class PackedAccount:
    """An account with its key names, ids and limit rows, packed. Whoever caches accounts caches these.

    account:   the account itself
    rows:      limit rows for a model without limits, of the windows around some moment
    models:    the models that have, each with its rows (None: none has); they count in no more
               records than the others
    fresh_until_ms: while the clock is before it, the rows' first window is the current one
    mask:      scopes whose records limits count in: 1 the project's, plus 2 the key's
    scopes:    keys of these records
    head_keys: deadlines, outbox, shard record, wallet
    prefix:    of reservation keys
    """

    __slots__ = (
        "account",
        "account_key",
        "account_rev",
        "fresh_until_ms",
        "head_keys",
        "ids",
        "mask",
        "meta",
        "models",
        "names",
        "prefix",
        "rows",
        "scopes",
        "shard",
    )

    def __init__(self, account: Account, names: Keys, now_ms: int = 0) -> None:
        """now_ms: a guess of the ledger's clock; the script refuses rows of other windows."""
        shard = account.shard
        self.account = account
        self.account_rev = account.account_rev
        self.names = names
        self.shard = shard
        self.prefix = names.prefix(shard) + b"r:"
        self.meta = names.meta(shard)
        self.account_key = names.account(shard, account.customer_id)
        self.head_keys = (names.due(shard), names.out(shard), self.meta, self.account_key)
        ids = (account.customer_id, account.key_id, account.project_id or "")
        self.ids = "\0".join(ids).encode()
        self.rows: LimitRows = _NO_LIMITS
        self.fresh_until_ms = _NO_LIMITS.fresh_until_ms
        self.models: dict[str | None, LimitRows] | None = None
        self.mask = 0
        self.scopes: tuple[bytes, ...] = ()
        if account.limits:
            self.repack(now_ms)

    def repack(self, now_ms: int) -> None:
        """Compile the limits for the windows around `now_ms`."""
        account = self.account
        project = account.project_id is not None
        self.rows = pack_limits(account.limits, now_ms, project=project)
        self.models = {
            model: pack_limits(account.limits, now_ms, project=project, model=model)
            for model in {limit.model for limit in account.limits if limit.scope == "model"}
        } or None
        every = (self.rows, *(self.models or {}).values())
        self.fresh_until_ms = min(rows.fresh_until_ms for rows in every)
        self.mask = self.rows.scopes
        self.scopes = self.names.scopes(account, self.mask)

    def rows_for(self, model: str | None) -> LimitRows:
        """The rows that a request for this model counts under."""
        return self.rows if self.models is None else self.models.get(model, self.rows)

    def idempotency_key(self, digest: str) -> bytes:
        """The key of the record of an Idempotency-Key."""
        return self.names.once(self.shard, digest)


_NO_LIMITS = pack_limits((), 0)
