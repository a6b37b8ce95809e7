"""Who made a change: a person, a token, a command, or a system that sent a webhook."""

from dataclasses import dataclass
from typing import Literal

ActorKind = Literal["user", "token", "command", "webhook", "gate"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Shown in the audit log as `kind:name`.

    user:    a person who signed in; name: their e-mail address or subject
    token:   an API token; name: its id
    command: the command line; name: the operating system's user
    webhook: a system that sends payments; name: which one
    gate:    the gate by itself, such as a plan that it applies
    """

    kind: ActorKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"
