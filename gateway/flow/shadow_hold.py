"""What the ledger holds for a request in shadow mode."""

from dataclasses import dataclass

from gateway.domain.reservation import Hold


@dataclass(slots=True)
class ShadowHold:
    """The answer to a request in shadow mode: it runs in any case.

    hold:    of the estimate; of 0 where the request would have been refused
    held:    the ledger has a hold under this id
    charges: what was used is charged at the end
    """

    hold: Hold
    held: bool = True
    charges: bool = True
