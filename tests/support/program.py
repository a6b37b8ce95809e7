"""A complete gate as a program: supervisor, workers and exporter, each a process."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.support.gate import KEY
from tests.support.until import until

SOON_S: Final = 60
"""For a program with three processes, on a machine that does other work too."""


def serve(config: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start `creditgate serve`; its output goes to a file."""
    command = [sys.executable, "-m", "gateway.cli", "serve", str(config)]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file)


@dataclass
class Program:
    """A gate that runs as a program of its own."""

    process: "subprocess.Popen[bytes]"
    client: httpx.AsyncClient
    ports: tuple[int, int]

    async def chat(self) -> int:
        """The status of one request; 0 where nobody listens."""
        body = {"model": "small", "messages": [{"role": "user", "content": "hi\nsim: tokens=3"}]}
        url = f"http://127.0.0.1:{self.ports[0]}/v1/chat/completions"
        try:
            answer = await self.client.post(url, json=body, headers={"x-api-key": KEY})
        except httpx.HTTPError:
            return 0
        return answer.status_code

    async def answers(self, status: int) -> None:
        """Ask until this is the answer."""

        async def does() -> bool:
            return await self.chat() == status

        await until(does, SOON_S)

    def worker(self) -> psutil.Process:
        """Its only worker."""
        return self.child("worker-0")

    def child(self, name: str) -> psutil.Process:
        """One of its processes."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if name in child.cmdline())

    async def admin(self) -> dict[str, Any]:
        """What `/readyz` of the admin port says."""
        said: dict[str, Any] = (
            await self.client.get(f"http://127.0.0.1:{self.ports[1]}/readyz")
        ).json()
        return said
