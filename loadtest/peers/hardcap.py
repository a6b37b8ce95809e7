"""hardcap, from an environment of its own (`requirements-hardcap.lock`), the nearest peer.

As its documentation starts it, with its defaults: token budgets in Redis, reserved by the rolling
p95 of the output, extended while a stream runs, truncated at the end. It has no money, no events.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import yaml

from loadtest import children
from loadtest.gate import MODEL
from loadtest.interpreters import probe
from loadtest.peers.target import Missing, Target, World
from loadtest.ports import free_ports

NAME: Final = "hardcap"
_ENDLESS_TOKENS: Final = 10**12
_TEN_YEARS_S: Final = 315_360_000


@dataclass(frozen=True, slots=True)
class Replica:
    """A running one."""

    url: str
    pid: int


@contextlib.contextmanager
def serving(
    python: Path, config: Path, log: BinaryIO, environ: Mapping[str, str] | None = None
) -> Iterator[Replica]:
    """Run one of it by this Python and configuration. Raises NotStarted."""
    [port] = free_ports(1)
    words = ["-m", "hardcap", "serve", "-c", str(config), "--host", "127.0.0.1"]
    url = f"http://127.0.0.1:{port}"
    with children.answering(
        [str(python), *words, "--port", str(port)], f"{url}/healthz", log, environ=environ
    ) as pid:
        yield Replica(url, pid)


@contextlib.contextmanager
def running(world: World, python: Path) -> Iterator[Target]:
    """Run it with one tenant of endless budget. Raises Missing, NotStarted."""
    if not python.exists():
        raise Missing("hardcap is not installed (`make bench` does, by requirements-hardcap.lock)")
    folder = world.folder / NAME
    folder.mkdir()
    document: dict[str, Any] = {
        "redis_url": f"unix://{world.redis}",
        "upstreams": {
            name: {"kind": "openai", "base_url": upstream.url}
            for name, upstream in world.upstreams.items()
        },
        "routes": {
            model: {"targets": [{"upstream": name, "model": MODEL}]}
            for name, model in world.models.items()
        },
        "tenants": {
            "load": {
                "api_keys": [world.key],
                "budget": {"window_s": _TEN_YEARS_S, "total": _ENDLESS_TOKENS},
            }
        },
    }
    config = folder / "hardcap.yaml"
    config.write_text(yaml.safe_dump(document))
    version = children.installed_version(python, "hardcap")
    trusted = {"SSL_CERT_FILE": str(world.upstreams["tls"].ca_file)}
    with (folder / "log").open("wb") as log, serving(python, config, log, trusted) as one:
        yield Target(
            NAME,
            lambda _upstream, _streams: one.url,
            f"hardcap {version}, its defaults, one worker; gates a budget of tokens in Redis, by the"
            " rolling p95, with extensions; no money, no events",
            lambda: [one.pid],
            python=probe(python),
            ledger=True,
        )
