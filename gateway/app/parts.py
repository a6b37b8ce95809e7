"""What the supervisor operates, given as values and functions: it knows neither the shape of
the settings nor the kind of ledger that the gate uses."""

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from gateway.app.reporting import Reporter
from gateway.app.roles import Role


class CannotStart(Exception):
    """The gate cannot start. The message says why and what to change."""


class ConfigRefused(Exception):
    """A configuration has problems; the message has each as one line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class LedgerState:
    """How the ledger is.

    problem: why nothing can be admitted, one word for `/readyz`; None while it serves
    detail:  the same as a sentence, with the server's own refusal
    frozen:  shards that have lost entries: their customers are refused until a repair
    nodes:   of a cluster, where others serve: HOST:PORT and one word of what is wrong with it → the
             same as a sentence
    """

    problem: str | None = None
    detail: str = ""
    frozen: tuple[int, ...] = ()
    nodes: Mapping[str, str] = field(default_factory=dict)


class Ledger(Protocol):
    """Where the wallets are: a server that the gate starts, or one that is run elsewhere."""

    async def start(self) -> str:
        """Make it reachable; returns its URL. Raises CannotStart."""
        ...

    async def look(self) -> LedgerState:
        """How it is. Never raises for an unreachable one."""
        ...

    async def revive(self) -> bool:
        """Start it again if it is ours and has died; whether it had. Raises CannotStart."""
        ...

    async def stop(self) -> None:
        """End it, if it is ours. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that processes of the gate listen on.

    shown: names it and its option, for errors: "the gate's port (--port)"
    """

    host: str
    port: int
    shown: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How to operate by one configuration; a reload makes a new one.

    listeners: the ports of the roles, by the name that roles know them by
    files:   configuration files whose change means a reload
    fixed:   what cannot change while running, by the name the operator knows it by
    digest:  changes when anything that the configuration says does; "" is always a change
    admin_tls: what new connections to the admin port shake hands with; None for plain HTTP
    """

    listeners: Mapping[str, Listener]
    admin: Listener
    grace_s: float
    files: tuple[Path, ...] = ()
    fixed: Mapping[str, object] | None = None
    digest: str = ""
    admin_tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What makes one gate.

    load:          reads the configuration; raises ConfigRefused
    plan:          how to operate by a configuration; raises ConfigRefused
    ask:           whether the ledger at a URL and this machine can take a configuration; changes
                   nothing; raises CannotServe, one problem a line
    write:         writes a configuration's accounts into that ledger; idempotent; raises CannotServe
    write_rest:    writes what `write` left out because a part of the ledger was away; called now and
                   then; raises CannotServe
    admin_token:   the operator's own; None has one made and kept in the data folder
    admin_routes:  further paths of the admin side, guarded by its token
    notices:       what an operator should know though the gate serves, as word → explanation
    reporter:      where the gate reports about itself, made for the ledger's URL
    """

    data_dir: Path
    roles: Sequence[Role]
    ledger: Ledger
    load: Callable[[], Any]
    plan: Callable[[Any], Plan]
    ask: Callable[[Any, str], Awaitable[None]]
    write: Callable[[Any, str], Awaitable[None]]
    write_rest: Callable[[], Awaitable[None]] | None = None
    admin_token: str | None = None
    admin_routes: Sequence[web.RouteDef] = ()
    notices: Callable[[Any, str], Awaitable[Mapping[str, str]]] | None = None
    reporter: Callable[[str], Reporter] | None = None

    def settings_for(self, process: str, settings: Any) -> Any:
        """What a process is given of the settings. process: its name, such as "worker-0" """
        for role in self.roles:
            if role.given is not None and process.rpartition("-")[0] == role.name:
                return role.given(settings)
        return settings


@dataclass(slots=True)
class Current:
    """What is in force now; replacements of children start with it."""

    settings: Any
    plan: Plan
    ledger_url: str = ""

    def admin_tls(self) -> Callable[[], ssl.SSLContext] | None:
        """What the admin port shakes hands with at the moment; None if it serves plain HTTP.

        A port that was opened with TLS keeps the last context if the section is removed.
        """
        last = self.plan.admin_tls
        if last is None:
            return None

        def newest() -> ssl.SSLContext:
            nonlocal last
            last = self.plan.admin_tls or last
            assert last is not None, "there was one at the start"
            return last

        return newest
