"""Who opens the shards that have lost entries in a failover."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

Repair = Callable[[], Awaitable[str]]
"""Does something for shards that are shut; what it said."""
WITHIN_S: Final = 60.0


def reopen(config: Path) -> Repair:
    """An operator who calls `creditgate ledger reopen`."""

    async def call() -> str:
        code, said = await command(config, "ledger", "reopen", "--accept-loss")
        return f"exit {code}\n{said}"

    return call


async def nothing() -> str:
    """Of a gate that repairs its ledger by itself."""
    return ""


async def command(config: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of a command of the gate."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *words, "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(WITHIN_S):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")
