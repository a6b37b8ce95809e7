"""Why an operation could not be carried out, in words for the operator.

Every message says what happened and, where something can be done, what. Nothing was changed unless
the message says so. What is wrong with the ledger itself is `LedgerUnavailable`, as everywhere.
"""


class OperationError(Exception):
    """The operation was not carried out; the message says why."""


class NotFound(OperationError):
    """What the operation names does not exist."""


class Conflict(OperationError):
    """The present state does not permit the operation."""


class OutcomeUnknown(OperationError):
    """The connection was lost before the ledger's answer came.

    key: the idempotency key under which the operation can be repeated safely; None where the message
         says what to do instead
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key
