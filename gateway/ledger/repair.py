"""Brings a shard that has lost entries of its outbox back from what the store has.

A shard that was restored from an older copy, or failed over to a replica that lagged, has fewer
entries than the store. To serve on would charge old balances and give places to new entries that
the store has filled. So it is frozen in its record (`Shards.freeze`), where every process and
every successor finds it, until `reapply` has applied each of the store's events again and `reopen`
begins an epoch.

Invariants: each verb may be called again with the same arguments; a repair that was killed resumes
where the record says it stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.delivery import Place
from gateway.domain.events import Event
from gateway.domain.reservation import Account
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.effects import (
    effect_of,
    pack_for_script,
    pack_reapply_head,
    pack_reopen_head,
)
from gateway.ledger.codec.operations import GrantTerms, pack_place
from gateway.ledger.codec.shard_records import LostRange
from gateway.ledger.codec.shut_wallets import ShutWallet
from gateway.ledger.shards import Shards

_BOTH_SCOPES: Final = 3
_REFUSALS: Final = frozenset({"unknown_account", "other_grant", "unknown_grant", "not_enough"})


class CannotReapply(Exception):
    """The wallet cannot take an event again; nothing was written."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a repair of one shard is.

    stored:  the store's last event of the shard
    applied: up to where the shard has the store's events, as this repair has seen
    last:    the shard's last entry when its outbox was read
    """

    stored: Place
    applied: Place
    last: Place


@dataclass(frozen=True, slots=True)
class Begun:
    """A shard that serves again. lost: what was seen and is nowhere; None where nothing is known of"""

    epoch: int
    lost: LostRange | None


class Repair:
    """Verbs on frozen shards."""

    __slots__ = ("shards",)

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    async def loosen(self, shard: int, customer_id: str, reservation_id: str) -> None:
        """Put a hold on the credit limit, so that what it rests on can be charged again. Nothing for one that has
        ended, or has no wallet.

        Raises LedgerUnavailable.
        """
        keys = (
            self.shards.keys.meta(shard),
            self.shards.keys.account(shard, customer_id),
            self.shards.keys.reservation(shard, reservation_id),
        )
        reply = await self.shards.runner.run(self.shards.scripts["loosen"], keys, ())
        word = reply[0].decode()
        if word not in ("loosened", "gone", "unknown_account"):
            raise LedgerUnavailable(f"shard {shard} cannot be repaired: {word}")

    async def reapply(
        self, event: Event, terms: Mapping[int, GrantTerms], holder: Account | None = None
    ) -> None:
        """Do again what an event of the store says that its shard had done.

        terms:  of the customer's grants, for those that have been dropped meanwhile
        holder: whose limits the reservation counts in, where it is pending
        Raises CannotReapply, LedgerUnavailable.
        """
        try:
            effect = effect_of(event, terms)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CannotReapply(f"its facts do not say what it did: {error!r}") from error
        await self._reapply(event, effect, holder)

    async def shut(self, shard: int, customer_id: str, why: ShutWallet) -> None:
        """Freeze a wallet of a frozen shard, list it, and pass over the event that it cannot take.

        Raises LedgerUnavailable.
        """
        keys = (
            self.shards.keys.meta(shard),
            self.shards.keys.account(shard, customer_id),
            self.shards.keys.customers(shard),
            self.shards.keys.shut(shard),
        )
        args = (pack_place(why.place.epoch, why.place.seq), customer_id.encode(), why.packed())
        reply = await self.shards.runner.run(self.shards.scripts["shut"], keys, args)
        word = reply[0].decode()
        if word != "shut":
            raise LedgerUnavailable(f"shard {shard} cannot be repaired: {word}")

    async def reopen(
        self, shard: int, reached: Reached, kept: Sequence[tuple[Place, str]]
    ) -> Begun:
        """Let a frozen shard serve again.

        kept: entries of the outbox that the store has not: place, and the id of the reservation
              that it ends, or ""
        Raises LedgerUnavailable, also where the shard has lost entries again since it was read.
        """
        script, names = self.shards.scripts["reopen"], self.shards.keys
        out = names.out(shard)
        ends = [names.reservation(shard, name) if name else out for _, name in kept]
        places = [f"{place.epoch}-{place.seq}" for place, _ in kept]
        keys = (out, names.meta(shard), names.loss(shard), *ends)
        now_ms = self.shards.clock_ms() if self.shards.clock_ms else 0
        head = pack_reopen_head(reached.stored, reached.applied, reached.last, now_ms)
        reply = await self.shards.runner.run(script, keys, (head, pack_for_script(places)))
        word = reply[0].decode()
        if word == "open" and reply[1] > reached.last.epoch:
            return Begun(int(reply[1]), None)  # another process has done it
        if word != "reopened":
            raise LedgerUnavailable(f"shard {shard} cannot be reopened: {word}")
        after, last = Place(reply[3], reply[4]), Place(reply[5], reply[6])
        return Begun(int(reply[1]), LostRange(after, last) if last.epoch else None)

    async def _reapply(
        self, event: Event, effect: Mapping[str, Any], holder: Account | None
    ) -> None:
        shard, customer_id = event.shard, event.customer_id
        keys = [
            self.shards.keys.meta(shard),
            self.shards.keys.account(shard, customer_id),
            self.shards.keys.ops(shard, customer_id),
            self.shards.keys.customers(shard),
            self.shards.keys.due(shard),
        ]
        mask = 0
        if "ended" in effect:
            keys.append(self.shards.keys.reservation(shard, event.reservation_id or ""))
            if holder is not None:
                mask = _BOTH_SCOPES
                keys += self.shards.keys.scopes(holder, mask)
        elif "note" in effect:
            keys.append(self.shards.keys.note(shard, event.event_id))
        now_ms = self.shards.clock_ms() if self.shards.clock_ms else 0
        head = pack_reapply_head(now_ms, Place(event.epoch, event.seq), mask)
        reply = await self.shards.runner.run(
            self.shards.scripts["reapply"], keys, (head, pack_for_script(effect))
        )
        word = reply[0].decode()
        if word in _REFUSALS:
            what = f"{word} {reply[1]}" if len(reply) > 1 else word
            raise CannotReapply(what.replace("_", " "))
        if word != "applied":
            raise LedgerUnavailable(f"shard {shard} cannot be repaired: {word}")
