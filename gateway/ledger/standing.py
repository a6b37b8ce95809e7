"""How the limits of accounts stand, read from the records that they count in."""

from collections.abc import Mapping, Sequence

from gateway.domain.limits import SLOTS, Limit, pack_limits, window_borders_ms
from gateway.domain.reservation import Account
from gateway.domain.standing import Standing
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.wallet_records import Counter, read_scope, read_wallet


def counted_in(keys: Keys, account: Account) -> tuple[bytes, bytes, bytes]:
    """Keys of the records of the customer, the project and the key, in the order of `SCOPES`."""
    project, key = keys.scopes(account, 3)
    return keys.account(account.shard, account.customer_id), project, key


def standings_of(
    account: Account, records: Sequence[bytes | None], now_ms: int
) -> tuple[Standing, ...]:
    """Every limit that requests of this account may meet, whatever their model.

    records: of `counted_in`. Raises BadRecord.
    """
    counters: list[Mapping[int, Counter]] = []
    for scope, record in enumerate(records):
        found = () if not record else read_scope(record) if scope else read_wallet(record).counters
        counters.append({counter.counter_id: counter for counter in found})
    project = account.project_id is not None
    models = {limit.model for limit in account.limits if limit.scope == "model"} | {None}
    limits = {
        limit: None
        for model in sorted(models, key=lambda name: name or "")
        for limit in pack_limits(account.limits, now_ms, project=project, model=model).limits
    }
    return tuple(
        _standing(account, limit, counters[limit.counts_in].get(limit.counter_id), now_ms)
        for limit in limits
    )


def _standing(account: Account, limit: Limit, counter: Counter | None, now_ms: int) -> Standing:
    ends: int | None = None
    if limit.rolling:
        start = now_ms - now_ms % limit.slot_ms
        if counter is not None:
            ends = _first_to_age(counter, start)
    elif limit.measure == "concurrent" or limit.window == "total":
        start = 0
    else:
        _, start, ends, _ = window_borders_ms(limit.window, now_ms)
    used, held = (0, 0) if counter is None else counter.standing(start)
    return Standing(limit, account.holder(limit), used, held, ends)


def _first_to_age(counter: Counter, start_ms: int) -> int | None:
    """When the oldest slot that counts something stops to; None where none does."""
    slots = ((counter.used, counter.held), *counter.slots)
    for back, slot in reversed(tuple(enumerate(slots))):
        begins = counter.window_start_ms - back * counter.slot_ms
        if any(slot) and begins >= start_ms - SLOTS * counter.slot_ms:
            return begins + (SLOTS + 1) * counter.slot_ms
    return None
