"""The seam between the processes and what they do.

A child process runs one `Service`, made by a builder that is named as "module:function", so
that the supervisor need not import what its children run.
"""

import importlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from gateway.telemetry.metrics import Snapshot


class CannotServe(Exception):
    """A service cannot be built, or a configuration cannot be taken over. The message says
    why and is shown to the operator, so it carries no secret.
    """


@dataclass(frozen=True, slots=True)
class Resources:
    """What a service gets in addition to the settings.

    ledger_url:   where the ledger is: the embedded one's socket, or the configured URL
    data_dir:     the gate's own folder: journals, the embedded store
    process:      this process' name, for logs and journals: "worker-0", "exporter-0"
    """

    ledger_url: str
    data_dir: str
    process: str


class Service(Protocol):
    """What a child process runs. Every method is called on the process' one event loop."""

    async def start(self, sock: socket.socket | None) -> None:
        """Serve on the listening socket (None for a service that does not listen)."""
        ...

    async def prepare(self, settings: Any) -> None:
        """Make everything that the new settings need, while still serving by the old.

        Raises CannotServe to refuse them. A second prepare replaces the first.
        """
        ...

    def commit(self) -> None:
        """Serve new requests by what was prepared. Cannot fail; running requests go on."""
        ...

    def abort(self) -> None:
        """Throw away what was prepared."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Stop accepting, let running work end within the grace, settle it, free everything.

        Called again while the first call runs (the operator is in a hurry), it shortens the
        grace; both calls return when all is done.
        """
        ...

    def snapshot(self) -> Snapshot:
        """The metrics so far; also after the drain."""
        ...


Builder = Callable[[Any, Resources], Awaitable[Service]]


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of child process.

    builder:  "module:function" of a Builder
    listens:  the port that its processes share, each on a separate socket; a key of
              `Plan.listeners`
    serves:   the gate is not ready without one of its processes
    after:    roles whose processes end before this one is drained (the exporter delivers
              what the workers' last requests wrote)
    orphan_grace_s:  how long a process of it drains when its supervisor is gone; None is the
              grace of any drain
    given:    what of the settings its processes get, so that they hold no secrets that they do not
              need; None is all
    """

    name: str
    builder: str
    count: int = 1
    listens: str | None = None
    serves: bool = False
    after: tuple[str, ...] = ()
    orphan_grace_s: float | None = None
    given: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """The first message to a child."""

    builder: str
    settings: Any
    resources: Resources
    grace_s: float
    """How long it may drain when it ends unasked (its supervisor died)."""


def find_builder(name: str) -> Builder:
    """The builder of that name. Raises ImportError or AttributeError."""
    module, _, function = name.partition(":")
    return cast(Builder, getattr(importlib.import_module(module), function))
