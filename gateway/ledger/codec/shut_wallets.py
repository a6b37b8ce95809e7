"""The list of wallets that repairs have frozen: one field of a hash for each, msgpack."""

from dataclasses import asdict, dataclass
from typing import Any

from msgpack import packb, unpackb

from gateway.domain.delivery import Place


@dataclass(frozen=True, slots=True)
class ShutWallet:
    """Why a repair has frozen a wallet.

    event_id: of the event that cannot be done again; None where the wallet differs from its events
    place:    of that event; of the store's last event where there is none
    reason:   a sentence for people
    noted:    whether the audit log has it. thawed: whether an operator has ended it
    """

    event_id: str | None
    place: Place
    reason: str
    noted: bool = False
    thawed: bool = False

    def packed(self) -> bytes:
        """As the ledger keeps it."""
        packed: bytes = packb(asdict(self))
        return packed


def read_shut_wallet(packed: bytes) -> ShutWallet:
    """What the ledger keeps. Fields of a later release are passed over."""
    said: dict[str, Any] = unpackb(packed)
    return ShutWallet(
        said["event_id"], Place(*said["place"]), said["reason"], said["noted"], said["thawed"]
    )
