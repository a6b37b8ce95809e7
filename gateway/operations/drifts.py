"""What `verify` finds: differences between ledger, outbox and store."""

from dataclasses import dataclass, field
from typing import Literal

from gateway.domain.money import format_amount

Identity = Literal["money", "holds", "events", "numbering", "delivery", "records"]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. `subject` names the wallet, reservation, shard or event."""

    identity: Identity
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Side:
    """One of two amounts that should be equal, in nano-credits."""

    name: str
    nano: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked, and what differs. No drift is the promise."""

    wallets: int
    holds: int
    ended: int
    events_stored: int
    events_in_outbox: int
    drifts: tuple[Drift, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not self.drifts


@dataclass(slots=True)
class Findings:
    """Collects what a verification sees."""

    wallets: int = 0
    holds: int = 0
    ended: int = 0
    events_stored: int = 0
    events_in_outbox: int = 0
    drifts: list[Drift] = field(default_factory=list)

    def drift(self, identity: Identity, subject: str, message: str) -> None:
        """Note one difference."""
        self.drifts.append(Drift(identity, subject, message))

    def compare(self, identity: Identity, subject: str, one: Side, other: Side) -> None:
        """Note a drift unless both sides have the same amount."""
        if one.nano == other.nano:
            return
        self.drift(
            identity,
            subject,
            f"{one.name} {format_amount(one.nano)}, {other.name} {format_amount(other.nano)}:"
            f" differs by {format_amount(one.nano - other.nano)}",
        )

    def verified(self) -> Verified:
        """The result."""
        return Verified(
            self.wallets,
            self.holds,
            self.ended,
            self.events_stored,
            self.events_in_outbox,
            tuple(self.drifts),
        )
