"""What can go wrong between the gate and the ledger."""


class LedgerUnavailable(Exception):
    """The ledger cannot be reached, or cannot serve (BUSY, LOADING, READONLY, MISCONF, OOM …).

    unknown: the command may have been executed: its outcome is unknown, so ask again with the
             same id, or undo by id
    """

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class LedgerBug(Exception):
    """A script answered something its header does not list. Never caught: it must be seen."""
