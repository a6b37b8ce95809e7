"""A supervisor over the trivial service, as a program: `trivial_gate.py FOLDER`.

Its configuration is FOLDER/gate.json; when all serves, it writes where to FOLDER/running.json.
"""

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

from gateway.app import watching
from gateway.app.parts import CannotStart, ConfigRefused, LedgerState, Listener, Parts, Plan
from gateway.app.roles import CannotServe, Role
from gateway.app.supervisor import Running, Supervisor
from gateway.telemetry.logs import configure_logs


class FileLedger:
    """Reachable while FOLDER/ledger_down does not exist; its store, while FOLDER/store_down does not."""

    def __init__(self, folder: Path) -> None:
        self._down = folder / "ledger_down"
        self._store_down = folder / "store_down"
        self._log = folder / "ledger.log"

    async def start(self) -> str:
        self._note("start")
        return "trivial://"

    async def look(self) -> LedgerState:
        if self._store_down.exists():
            return LedgerState("store_unreadable")
        return LedgerState("ledger_unreachable") if self._down.exists() else LedgerState()

    async def revive(self) -> bool:
        return False

    async def stop(self) -> None:
        self._note("stop")

    def _note(self, what: str) -> None:
        with self._log.open("a") as file:
            file.write(what + "\n")


def main() -> int:
    folder = Path(sys.argv[1])
    config = folder / "gate.json"

    def load() -> dict[str, Any]:
        try:
            settings: dict[str, Any] = json.loads(config.read_text())
        except ValueError as error:
            raise ConfigRefused(["gate.json: not JSON", "gate.json: again"]) from error
        return settings

    def plan(settings: dict[str, Any]) -> Plan:
        port, admin_port = settings.get("port", 0), settings.get("admin_port", 0)
        return Plan(
            {"gate": Listener("127.0.0.1", port, "the gate's port (--port)")},
            Listener("127.0.0.1", admin_port, "the admin port (--admin-port)"),
            grace_s=settings.get("grace_s", 10.0),
            files=(config,),
            fixed={"port": port},
            digest=json.dumps(settings),
        )

    async def ask(settings: dict[str, Any], url: str) -> None:
        assert url == "trivial://"
        if settings.get("unsyncable"):
            raise CannotServe("the ledger refuses an account\nand another")

    async def write(settings: dict[str, Any], url: str) -> None:
        with (folder / "written").open("a") as file:
            file.write(f"{settings['greeting']}\n")
        if settings.get("unwritable"):
            raise CannotServe("the ledger has gone away")

    async def notices(settings: dict[str, Any], url: str) -> dict[str, str]:
        return dict(settings.get("notices", {}))

    async def ready(running: Running) -> None:
        staged = folder / "running.staged"
        staged.write_text(json.dumps(asdict(running) | {"pid": os.getpid()}))
        staged.rename(folder / "running.json")

    settings = load()
    builder = "trivial_service:build"
    roles = (
        Role("worker", builder, count=settings.get("workers", 2), listens="gate", serves=True),
        Role("exporter", builder, after=("worker",)),
    )
    parts = Parts(
        folder / "data", roles, FileLedger(folder), load, plan, ask, write, notices=notices
    )
    configure_logs("supervisor", style="json")
    try:
        with mock.patch.multiple(watching, LOOK_EVERY_S=0.1, NOTICE_EVERY_S=0.1):
            asyncio.run(Supervisor(settings, parts).run(ready))
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
