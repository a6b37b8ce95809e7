"""The operator's desk: commands run in the test's process, on a gate or a ledger that runs beside."""

import asyncio
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from gateway.cli import app

for _group in (
    "customer",
    "customer_link",
    "wallet",
    "customer",
    "key",
    "holds",
    "quote",
    "verify",
    "ledger",
    "shards",
    "audit",
    "why",
    "adjust",
    "refund",
    "payments",
    "signals",
    "prices",
    "prices_plan",
    "statement",
    "roll_forward",
    "rerate",
    "check",
    "export",
    "events",
    "report",
    "reconcile",
    "compare",
    "mode",
    "import_customers",
    "init",
):
    importlib.import_module(f"gateway.cli.{_group}")  # the import is what registers its commands


@dataclass(frozen=True, slots=True)
class Said:
    """What a command answered; texts in one line, however wide the terminal."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Desk:
    """The command line with one configuration."""

    config: Path

    async def run(self, *words: str, stdin: bytes | str | None = None) -> Said:
        """`creditgate WORDS`."""
        runner = CliRunner(env={"CREDITGATE_CONFIG": str(self.config)})
        result = await asyncio.to_thread(runner.invoke, app, list(words), stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(
            result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())
        )

    async def ask(self, *words: str, stdin: bytes | str | None = None) -> Any:
        """What `creditgate WORDS --json` prints; it must exit 0."""
        said = await self.run(*words, "--json", stdin=stdin)
        assert said.code == 0, said
        return json.loads(said.out)

    async def refused(self, *words: str, stdin: bytes | str | None = None) -> str:
        """What `creditgate WORDS` says on stderr when it exits 1; stdout must be empty."""
        said = await self.run(*words, stdin=stdin)
        assert (said.code, said.out) == (1, ""), said
        return said.err
