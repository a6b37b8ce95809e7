"""The shards of one ledger as one process sees them: what every group of verbs is built on.

`Reservations`, `Wallets`, `Corrections` and `Repair` each take a `Shards`. Those of one process
share one watermark, whatever runner they use. Here, too, are the two verbs of a shard itself:
`ack` and `freeze`.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from gateway.domain.delivery import Place
from gateway.domain.reservation import Account
from gateway.ledger.client.errors import LedgerBug, LedgerRefusal, LedgerUnavailable, ShardClosed
from gateway.ledger.client.scripts import Runner, Script, load_scripts
from gateway.ledger.codec.calls import Times
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.operations import pack_facts, pack_place, pack_times
from gateway.ledger.codec.packed_account import PackedAccount
from gateway.ledger.outbox_watermark import OutboxWatermark

BAD_INPUT: Final = frozenset(
    {"bad_arguments", "bad_rate", "bad_quantity", "bad_limits", "unknown_shape", "too_large"}
)
"""The caller gave arguments out of bounds: ValueError."""
CLOSED: Final = frozenset({"went_back", "shard_frozen", "wrong_layout", "unknown_account"})
"""The shard cannot serve this now: LedgerUnavailable."""
_REFUSALS: Final = frozenset(
    {
        "exists_with_different_parameters",
        "already_expired",
        "too_many_grants",
        "too_many_allowances",
        "total_too_large",
        "unknown_account",
        "old_revision",
        "unknown_grant",
        "more_than_charged",
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Operated:
    """A grant or correction that the ledger has answered. place: of its event"""

    verb: str
    customer_id: str
    op_id: str
    terms: bytes
    facts: Mapping[str, Any]
    shard: int
    place: Place


class Shards:
    """A runner, key names, and how far each shard is known to be."""

    __slots__ = ("clock_ms", "keys", "operated", "runner", "scripts", "watermark")

    def __init__(
        self,
        runner: Runner,
        keys: Keys | None = None,
        *,
        watermark: OutboxWatermark | None = None,
        clock_ms: Callable[[], int] | None = None,
    ) -> None:
        """watermark: shared by all ledgers of one process. clock_ms: replaces the ledger's clock, in tests."""
        self.runner = runner
        self.keys = keys or Keys()
        self.watermark = watermark or OutboxWatermark()
        self.clock_ms = clock_ms
        self.scripts = load_scripts()
        self.operated: Callable[[Operated], object] = deque[Operated](maxlen=0).append
        """Called with each grant and correction that the ledger has answered; at first, it forgets."""

    def times(self, shard: int) -> Times:
        """What each call begins with: the clock (0: the ledger's), and the shard's watermark."""
        epoch, count = self.watermark.marks[shard]
        return (self.clock_ms() if self.clock_ms else 0), epoch, count

    def pack(self, account: Account) -> PackedAccount:
        """The packed form of an account, to be kept by whoever keeps the account."""
        now_ms = self.clock_ms() if self.clock_ms else time.time_ns() // 1_000_000
        return PackedAccount(account, self.keys, now_ms)

    # Verbs of a shard

    async def ack(self, shard: int, epoch: int, seq: int) -> None:
        """Let the outbox be trimmed: the store has this entry and all before it.

        Raises LedgerUnavailable when the shard does not have the entry: it has lost its tail.
        """
        keys = (self.keys.out(shard), self.keys.meta(shard))
        script = self.scripts["ack"]
        reply = await self.runner.run(script, keys, (pack_place(epoch, max(seq, 0)),))
        word = reply[0].decode()
        if word in ("not_written", "unknown_shard", "wrong_layout", "shard_frozen"):
            raise LedgerUnavailable(f"shard {shard} cannot take the acknowledgement: {word}")
        if word != "acked":
            raise unexpected(script, word)
        self.watermark.note(shard, epoch, seq)

    async def freeze(self, shard: int, known: Place, *, conflict: bool = False) -> bool:
        """Freeze a shard unless it has the entry `known`. True when it is frozen now.

        The highest entry that anyone has named is kept until the shard is reopened, for the report of
        what was lost.
        conflict: the store has another event at a place of its outbox
        Raises LedgerUnavailable.
        """
        script = self.scripts["freeze"]
        evidence = pack_place(known.epoch, max(known.seq + 1, 0)) + bytes([conflict])
        keys = (self.keys.meta(shard), self.keys.loss(shard))
        reply = await self.runner.run(script, keys, (evidence,))
        word = reply[0].decode()
        if word == "wrong_layout":
            raise ShardClosed(shard, word)
        if word not in ("frozen", "intact"):
            raise unexpected(script, word)
        return bool(word == "frozen")

    # For the groups of verbs

    async def run_on_account(self, verb: str, customer_id: str, *args: bytes) -> list[Any]:
        """Run a script of shard, account and outbox, with the times in front of its arguments."""
        shard, names = self.keys.shard_of(customer_id), self.keys
        keys = (names.meta(shard), names.account(shard, customer_id), names.out(shard))
        times = pack_times(self.times(shard))
        return await self.runner.run(self.scripts[verb], keys, (times, *args))

    async def operate(
        self, verb: str, customer_id: str, op_id: str, terms: bytes, facts: Mapping[str, Any]
    ) -> list[Any]:
        """Run a script that is done once per operation id, and note its entry of the outbox.

        Returns a reply whose word is the verb's success. Raises LedgerUnavailable, LedgerRefusal,
        ValueError.
        """
        shard, names = self.keys.shard_of(customer_id), self.keys
        keys = (
            names.meta(shard),
            names.account(shard, customer_id),
            names.ops(shard, customer_id),
            names.out(shard),
        )
        packed = pack_facts({**facts, "customer_id": customer_id})
        args = (pack_times(self.times(shard)), op_id.encode(), terms, packed)
        script = self.scripts[verb]
        reply = await self.runner.run(script, keys, args)
        if reply[0] != _DONE[verb]:
            self.refuse(script, shard, reply[0].decode())
        self.watermark.note(shard, reply[-3], reply[-2])
        place = Place(reply[-3], reply[-2])
        self.operated(Operated(verb, customer_id, op_id, terms, facts, shard, place))
        return reply

    def refuse(self, script: Script, shard: int, word: str, account_rev: int = 0) -> NoReturn:
        """Raise what a word other than success means."""
        if word in BAD_INPUT:
            raise ValueError(f"{script.name}: {word}")
        if word in _REFUSALS:
            raise LedgerRefusal(word, account_rev=account_rev)
        if word in CLOSED:
            raise self.closed(shard, word)
        raise unexpected(script, word)

    def closed(self, shard: int, word: str) -> ShardClosed:
        """The exception for a shard that cannot serve; reports a lost tail to the shard watch at once."""
        if word == "went_back":
            self.watermark.went_back(shard)
        return ShardClosed(shard, word)


_DONE: Final = {
    "grant": b"granted",
    "adjust": b"adjusted",
    "void": b"voided",
    "refund": b"refunded",
}


def unexpected(script: Script, word: str) -> LedgerBug:
    """The exception for a word that the script's header does not list."""
    return LedgerBug(f"{script.name} answered {word!r}, which its header does not list")
