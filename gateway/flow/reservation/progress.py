"""How far a request has come. Its only writer: whoever advances a request does so by this table."""

from collections.abc import Mapping
from typing import Final, Literal

Stage = Literal[
    "unsent",  # the upstream has received nothing
    "sent",  # the upstream may have the request; an end here is the upstream's fault, or ours
    "complete",  # the response has arrived completely
    "cut",  # the gate ended the stream: the credit was exhausted
    "left",  # the client has gone
    "killed",  # the operator ended it: by a kill, or by stopping the gate
]

KillReason = Literal["wallet_killed", "key_revoked", "gate_stopped"]

TRANSITIONS: Final[Mapping[Stage, frozenset[Stage]]] = {
    "unsent": frozenset({"sent"}),
    # Back to unsent when the pool says that it was cancelled before its first byte, and when the request goes to
    # another upstream because this one has not taken it.
    "sent": frozenset({"unsent", "complete", "cut", "left", "killed"}),
    "complete": frozenset(),
    "cut": frozenset(),
    "left": frozenset(),
    "killed": frozenset(),
}


class Progress:
    """The stage of one request, and what was noticed on the way.

    status:    the upstream's, 0 until its response head has arrived
    streaming: what the client asked for, then what the upstream responds
    killed:    why the operator has ended it; None when nobody has
    flags:     what was odd, for the event, in the order in which it was noticed
    """

    __slots__ = ("flags", "killed", "stage", "status", "streaming")

    def __init__(self, *, streaming: bool) -> None:
        self.stage: Stage = "unsent"
        self.status = 0
        self.streaming = streaming
        self.killed: KillReason | None = None
        self.flags: list[str] = []

    def advance(self, to: Stage) -> None:
        """Enter a stage. Raises ValueError for a transition that the table does not have."""
        if to not in TRANSITIONS[self.stage]:
            raise ValueError(f"a request does not go from {self.stage} to {to}")
        self.stage = to

    def flag(self, word: str) -> None:
        """Note something odd, once."""
        if word not in self.flags:
            self.flags.append(word)

    def leave(self, *, unsent: bool) -> None:
        """The client has gone. unsent: before the upstream received any of the request."""
        if self.killed is None:
            self.flag("client_gone")
        if self.stage == "sent":
            self.advance("unsent" if unsent else "left")

    def kill(self, reason: KillReason) -> bool:
        """The operator ends this request. False where it has ended already, or is being ended."""
        if self.killed is not None or self.stage not in ("unsent", "sent"):
            return False
        self.killed = reason
        self.flag("gate_stopped" if reason == "gate_stopped" else "killed")
        if self.stage == "sent":
            self.advance("killed")
        return True
