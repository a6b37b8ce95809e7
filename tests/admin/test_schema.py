"""The OpenAPI description holds: Schemathesis makes up requests by it, valid ones and invalid ones, and checks
every answer against it.

`CREDITGATE_FUZZ_EXAMPLES=200` makes the long form (`make fuzz-admin`).
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.admin.console.shop import running_shop
from tests.support.console import ADMIN_TOKEN
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

EXAMPLES = int(os.environ.get("CREDITGATE_FUZZ_EXAMPLES", "3"))


@pytest.mark.timeout(1800)
async def test_schemathesis_finds_nothing(tmp_path: Path, valkey_socket: Path, sim: Sim) -> None:
    async with running_shop(tmp_path, valkey_socket, sim.url) as shop:
        running = await asyncio.create_subprocess_exec(
            Path(sys.executable).parent / "st",
            f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
            "run",
            f"{shop.url}/api/openapi.json",
            f"--header=Authorization: Bearer {ADMIN_TOKEN}",
            f"--max-examples={EXAMPLES}",
            "--phases=" + ("examples,coverage,fuzzing" if EXAMPLES > 10 else "examples,fuzzing"),
            "--generation-deterministic",
            "--request-timeout=60",
            "--continue-on-failure",
            "--no-color",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await running.communicate()
        assert running.returncode == 0, said.decode()
