"""What can go wrong between the gate and the ledger."""

from typing import Final


class LedgerUnavailable(Exception):
    """The ledger cannot be reached, or cannot serve (BUSY, LOADING, READONLY, MISCONF, OOM …).

    unknown: the command may have been executed: its outcome is unknown, so ask again with the
             same id, or undo by id
    code:    the first word of the server's own refusal (`OOM`, `READONLY`, …); "" where it could
             not be asked
    """

    def __init__(self, message: str, *, unknown: bool = False, code: str = "") -> None:
        super().__init__(message)
        self.unknown = unknown
        self.code = code


class Redirected(LedgerUnavailable):
    """A node of a cluster says that another one has the slot. Nothing was executed.

    code: `MOVED`: from now on; `ASK`: for this call alone. address: the other node's host and port
    """

    def __init__(self, message: str, code: str, slot: int, address: tuple[str, int]) -> None:
        super().__init__(message, code=code)
        self.slot = slot
        self.address = address


class ShardClosed(LedgerUnavailable):
    """A shard takes nothing: it has lost entries, or the ledger has lost a wallet. Others serve.

    word: `went_back`, `shard_frozen`, `unknown_account` or `wrong_layout`
    """

    def __init__(self, shard: int, word: str) -> None:
        super().__init__(f"shard {shard} {_CLOSED.get(word, 'cannot serve')} ({word})")
        self.shard = shard
        self.word = word


_REPAIR: Final = "see `creditgate ledger status`"
_CLOSED: Final = {
    "went_back": f"has lost entries that were known; {_REPAIR}",
    "shard_frozen": f"is frozen, because it has lost entries; {_REPAIR}",
    "unknown_account": "has no such wallet",
    "wrong_layout": "has records of a layout that this release cannot read",
}


class LedgerBug(Exception):
    """A script answered something its header does not list. Never caught: it must be seen."""


class TooOld(Exception):
    """A settle or release came so late that its tombstone may be gone, so that nothing in the ledger
    could tell whether it was done before. Nothing was written: look for its event in the store,
    and adjust."""


class LedgerRefusal(Exception):
    """The ledger refuses an operator's grant, adjustment or account; the word says why.

    `exists_with_different_parameters`: that operation id has done something else before
    `already_expired`: the grant would expire before it takes effect, or has
    `too_many_grants`: 64 grants have something left
    `total_too_large`: a lifetime sum of the wallet would pass 9,000,000 credits
    `unknown_account`: there is no such customer
    `unknown_grant`: the wallet has no such grant, or nothing unheld is left of it
    `more_than_charged`: the refunds of an event would pass its charge
    `old_revision`: the ledger has a newer revision of the account
    """

    def __init__(self, word: str, *, account_rev: int = 0) -> None:
        super().__init__(word)
        self.word = word
        self.account_rev = account_rev
