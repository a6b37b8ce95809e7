"""The supervisor with the real parts: what `creditgate serve` and `creditgate dev` run."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from gateway.app.account_writer import AccountWriter, open_accounts
from gateway.app.asking import ask_ledger
from gateway.app.heartbeat import LedgerReporter
from gateway.app.ledger_server import DECLARED, LEDGER_FOLDER, EmbeddedServer, RemoteServer, Where
from gateway.app.parts import CannotStart, ConfigRefused, Ledger, Listener, Parts, Plan
from gateway.app.private import UMASK, for_admin, for_exporter, for_worker
from gateway.app.roles import CannotServe, Role
from gateway.app.stores import store_access
from gateway.app.supervisor import Running, Supervisor
from gateway.app.upstreams import upstream_context
from gateway.domain.pricebook import Draft
from gateway.exporter.sinks.registry import DriverMissing
from gateway.http.tls import BadCertificate
from gateway.settings import Settings, SettingsError, load_settings
from gateway.telemetry.logs import Style, configure_logs

_RELOADED: Final = {
    "listen": {"drain_grace_ms", "max_body_bytes", "max_json_values", "tls"},
    "admin": {"tls"},
}
"""Of the sections that are fixed while the gate runs, the settings that are not."""
_FIXED_SECTIONS: Final = ("listen", "admin", "redis", "export")
_FIXED_CONSOLE: Final = ("enabled", "host", "port")

_ADMIN: Final = Role(
    "admin",
    "gateway.admin.service:build_admin",
    listens="console",
    orphan_grace_s=1.0,
    given=for_admin,
)


def run_gate(
    config: Path,
    on_ready: Callable[[Settings, Running], Awaitable[None]],
    *,
    logs: Style | None = None,
) -> None:
    """Operate the gate that a configuration describes until it is stopped.

    Raises CannotStart, ConfigRefused (whatever is wrong with the configuration).
    """
    _run(config, parts_for, on_ready, logs)


def run_console(config: Path, *, logs: Style | None = None) -> None:
    """Operate the console and the admin API alone, on the ledger of gates that run elsewhere.

    Raises CannotStart, ConfigRefused (whatever is wrong with the configuration).
    """

    async def ready(_: Settings, running: Running) -> None:
        """Nobody waits for it."""

    _run(config, console_parts, ready, logs)


def _run(
    config: Path,
    parts: Callable[[Path, Settings], Parts],
    on_ready: Callable[[Settings, Running], Awaitable[None]],
    logs: Style | None,
) -> None:
    os.umask(UMASK)
    configure_logs("supervisor", style=logs)
    settings = _load(config)
    supervisor = Supervisor(settings, parts(config, settings))

    async def ready(running: Running) -> None:
        await on_ready(settings, running)

    asyncio.run(supervisor.run(ready))


def parts_for(config: Path, settings: Settings) -> Parts:
    """What makes the gate of these settings."""
    token, accounts = settings.admin.token, AccountWriter()
    return Parts(
        data_dir=settings.data_dir,
        roles=(
            Role(
                "worker",
                "gateway.app.gate:build_gate",
                count=settings.listen.workers,
                listens="gate",
                serves=True,
                given=for_worker,
            ),
            *([_ADMIN] if settings.console.enabled else []),
            Role(
                "exporter",
                "gateway.app.exporting:build_exporter",
                after=("worker", "admin"),
                orphan_grace_s=1.0,  # what it has not delivered, its successor will
                given=for_exporter,
            ),
        ),
        ledger=_ledger_server(settings),
        load=lambda: _load(config),
        plan=plan_of,
        ask=_ask,
        write=accounts.write,
        write_rest=accounts.write_rest,
        admin_token=token.get_secret_value() if token else None,
        notices=_Notices(),
        reporter=lambda ledger_url: LedgerReporter(settings, ledger_url),
    )


def console_parts(config: Path, settings: Settings) -> Parts:
    """What makes the console alone. It writes no accounts and activates no prices: gates do.

    Raises CannotStart for a configuration of which no other process could share the ledger.
    """
    if not settings.console.enabled:
        raise CannotStart("the console is disabled: set `console.enabled: true`")
    if settings.redis.connection_url() is None:
        raise CannotStart(
            "a console without a gate needs a ledger that both reach: set `redis.url`, "
            "or use the console that the gate runs"
        )
    return replace(
        parts_for(config, settings),
        roles=(replace(_ADMIN, serves=True),),
        ask=_nothing,
        write=_nothing,
        write_rest=None,
        notices=None,
        reporter=None,
    )


def plan_of(settings: Settings) -> Plan:
    """How to operate by these settings. Raises ConfigRefused."""
    tls = settings.admin.tls
    try:
        admin_tls = tls.certificate().context() if tls else None
    except BadCertificate as error:  # it has changed since the settings were read
        raise ConfigRefused([f"admin.tls: {error}"]) from error
    fixed: dict[str, object] = {
        "data_dir": settings.data_dir,
        "signals.webhook": settings.signals.webhook,
        "tracing": settings.tracing,
        "listen.tls": settings.listen.tls is not None,
        "admin.tls": settings.admin.tls is not None,
    }
    for section in _FIXED_SECTIONS:
        for name, value in getattr(settings, section):
            if name not in _RELOADED.get(section, ()):
                fixed[f"{section}.{name}"] = value
    listen, admin, console = settings.listen, settings.admin, settings.console
    for name in _FIXED_CONSOLE:
        fixed[f"console.{name}"] = getattr(console, name)
    return Plan(
        listeners={
            "gate": Listener(listen.host, listen.port, "the gate's port (--port)"),
            "console": Listener(console.host, console.port, "the console's port (--console-port)"),
        },
        admin=Listener(admin.host, admin.port, "the admin port (--admin-port)"),
        grace_s=settings.listen.drain_grace_ms / 1000,
        files=settings.files,
        fixed=fixed,
        digest=settings.digest,
        admin_tls=admin_tls,
    )


def _load(config: Path) -> Settings:
    try:
        return load_settings(config)
    except SettingsError as error:
        raise ConfigRefused([str(problem) for problem in error.problems]) from error


def _ledger_server(settings: Settings) -> Ledger:
    redis = settings.redis
    url = redis.connection_url()
    try:
        where = Where(redis.namespace, redis.shards, store_access(settings))
    except DriverMissing as error:
        raise CannotStart(str(error)) from error
    if url is None:
        return EmbeddedServer(settings.data_dir / LEDGER_FOLDER, where)
    return RemoteServer(url, DECLARED[settings.redis.durability], where)


async def _nothing(settings: Settings, ledger_url: str) -> None:
    """What a process without accounts asks of the ledger, and writes."""


async def _ask(settings: Settings, ledger_url: str) -> None:
    """Ask everything that can refuse the settings; changes nothing. Raises CannotServe."""
    problems = []
    for name, upstream in settings.upstreams.items():
        try:
            await asyncio.to_thread(upstream_context, name, upstream)
        except CannotServe as error:
            problems.append(str(error))
    async with open_accounts(settings, ledger_url) as (store, _, _):
        asked = await ask_ledger(settings, store)
    replace(asked, problems=(*problems, *asked.problems)).accept()


class _Notices:
    """What an operator should know though the gate serves: prices that wait to be applied."""

    def __init__(self) -> None:
        self._digest = ""
        self._draft: Draft | None = None

    async def __call__(self, settings: Settings, ledger_url: str) -> dict[str, str]:
        """As word → explanation. Raises CannotServe while the ledger cannot be asked."""
        if self._draft is None or settings.digest != self._digest:
            # Once for each configuration: with many customers it takes a while.
            self._draft = await asyncio.to_thread(settings.price_draft)
            self._digest = settings.digest
        async with open_accounts(settings, ledger_url) as (store, _, _):
            taken = await store.books.look(self._draft)
        if taken is None or taken.state != "pending":
            return {}
        count = len(taken.changes)
        return {
            "prices_pending": f"{count} price{'s' if count != 1 else ''} of the configuration"
            f" differ{'' if count != 1 else 's'} from book {taken.number}, which is charged;"
            " `creditgate check --live` shows them, `creditgate prices apply` activates them"
        }
