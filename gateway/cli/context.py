"""From `--config` to an open backend, for the commands that work on the ledger and the store."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from gateway.app.backend import open_backend
from gateway.cli.output import fail
from gateway.domain.stores import StoreMissing
from gateway.exporter.signal_schedule import ScheduleUnavailable
from gateway.exporter.sink import SinkUnavailable
from gateway.exporter.sinks.registry import DriverMissing
from gateway.ledger.client.embedded import EmbeddedLedgerError
from gateway.ledger.client.endpoint import BadLedgerUrl
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.creation import OtherLedger
from gateway.ledger.exporters import StoreInUse
from gateway.operations.backend import Backend
from gateway.operations.errors import OperationError, OutcomeUnknown
from gateway.settings import Settings, SettingsError, load_settings

T = TypeVar("T")

ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config", "-c", envvar="CREDITGATE_CONFIG", help="The configuration of the gate."
    ),
]
DEFAULT_CONFIG = Path("config/gateway.yaml")


def read_settings(config: Path, code: int = 1) -> Settings:
    """The settings; an invalid file ends the command with every mistake. code: its exit code."""
    try:
        return load_settings(config)
    except SettingsError as error:
        raise fail("\n".join(str(problem) for problem in error.problems), code) from None


def on_ledger(config: Path, work: Callable[[Backend], Awaitable[T]]) -> T:
    """Open the backend of a configuration, do the work, close it. Errors end the command."""
    return on_backend(read_settings(config), work)


def on_backend(
    settings: Settings,
    work: Callable[[Backend], Awaitable[T]],
    code: int = 1,
    *,
    need_store: bool = True,
) -> T:
    """Open the backend, do the work, close it. Errors end the command.

    code: their exit code; need_store: see `open_backend`
    """

    async def run() -> T:
        async with open_backend(settings, need_store=need_store) as backend:
            return await work(backend)

    with explained(code):
        return asyncio.run(run())


@contextmanager
def explained(code: int = 1) -> Iterator[None]:
    """End the command with one line for what the operator can mend. code: the exit code"""
    try:
        yield
    except OutcomeUnknown as unknown:
        again = f". Run this again with --key {unknown.key}" if unknown.key else ""
        raise fail(f"{unknown}{again}", code) from None
    except (
        OperationError,
        LedgerUnavailable,
        EmbeddedLedgerError,
        BadLedgerUrl,
        OtherLedger,
        StoreMissing,
        ScheduleUnavailable,
        SinkUnavailable,
        StoreInUse,
        DriverMissing,
    ) as error:
        raise fail(str(error), code) from None
