"""Portkey's gateway on Node.js, by `portkey/package-lock.json`: routes, and gates nothing.

The upstream is named in each request's headers, as its documentation shows for hosts of one's own.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import orjson

from loadtest import children
from loadtest.peers.target import Missing, Target, World
from loadtest.ports import free_ports

NAME: Final = "portkey"
_PACKAGE: Final = Path("node_modules/@portkey-ai/gateway")
_READY_S: Final = 60.0


@contextlib.contextmanager
def running(world: World, installed: Path) -> Iterator[Target]:
    """Run it from the folder where npm has installed it. Raises Missing, NotStarted."""
    node = shutil.which("node")
    if node is None:
        raise Missing("Portkey needs Node.js (Debian: apt-get install nodejs npm)")
    package = (installed / _PACKAGE).resolve()
    if not package.exists():
        raise Missing("Portkey is not installed (`make bench` does where npm is)")
    version = orjson.loads((package / "package.json").read_bytes())["version"]
    folder = world.folder / NAME
    folder.mkdir()
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    program = str(package / "build" / "start-server.js")
    environ = {
        "NODE_ENV": "production",
        "NODE_EXTRA_CA_CERTS": str(world.upstreams["tls"].ca_file),
    }

    def fields(upstream: str) -> Mapping[str, str]:
        return {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{world.upstreams[upstream].url}/v1",
        }

    with (
        (folder / "log").open("wb") as log,
        children.answering(
            [node, program, f"--port={port}", "--headless"],
            url,
            log,
            environ=environ,
            folder=folder,
            ready_s=_READY_S,
        ) as pid,
    ):
        yield Target(
            NAME,
            lambda _upstream, _streams: url,
            f"Portkey gateway {version} on Node.js; it gates nothing",
            lambda: [pid],
            fields=fields,
        )
