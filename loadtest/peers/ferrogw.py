"""Ferro Labs' gateway (Go), from an environment of its own (`requirements-ferrogw.lock`).

Its budget plugin is on: US dollars for each key, counted in its memory after an answer, checked before
the next request; it holds nothing, so that concurrent requests overshoot. Keys are checked. Its limit of
requests a second for each address is off, else it refuses nearly every request of a benchmark.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from loadtest import children
from loadtest.peers.target import Missing, Target, World
from loadtest.ports import free_ports

NAME: Final = "ferrogw"
_BUDGET_USD: Final = 1_000_000_000


def _budget(stage: str) -> dict[str, Any]:
    """The budget plugin at one stage; all stages need the same configuration."""
    return {
        "name": "budget",
        "type": "guardrail",
        "stage": stage,
        "enabled": True,
        "config": {
            "store_id": "default",
            "spend_limit_usd": _BUDGET_USD,
            "input_per_m_tokens": 0.5,
            "output_per_m_tokens": 2.0,
            "max_keys": 10_000,
        },
    }


@contextlib.contextmanager
def running(world: World, python: Path) -> Iterator[Target]:
    """Run the program that is installed next to this Python. Raises Missing, NotStarted."""
    program = python.parent / "ferrogw"
    if not program.exists():
        raise Missing("ferrogw is not installed (requirements-ferrogw.lock)")
    folder = world.folder / NAME
    folder.mkdir()
    config = folder / "config.yaml"
    # A provider has one base URL, and "ollama" takes it from OLLAMA_HOST, "openai" from OPENAI_BASE_URL.
    targets = {"ollama": "plain", "openai": "tls"}
    config.write_text(
        yaml.safe_dump(
            {
                "strategy": {
                    "mode": "conditional",
                    "conditions": [
                        {"key": "model", "value": world.models[upstream], "target_key": target}
                        for target, upstream in targets.items()
                    ],
                },
                "targets": [
                    {"virtual_key": target, "models": [world.models[upstream]]}
                    for target, upstream in targets.items()
                ],
                "plugins": [_budget("before_request"), _budget("after_request")],
            }
        )
    )
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    environ = {
        "PORT": str(port),
        "GATEWAY_CONFIG": str(config),
        "MASTER_KEY": world.key,
        "LOG_LEVEL": "error",
        "RATE_LIMIT_RPS": "0",
        "OLLAMA_HOST": world.upstreams["plain"].url,
        "FERRO_OLLAMA_MODELS": world.models["plain"],
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"{world.upstreams['tls'].url}/v1",
        "SSL_CERT_FILE": str(world.upstreams["tls"].ca_file),
    }
    version = children.installed_version(python, "ferrogw")
    with (
        (folder / "log").open("wb") as log,
        children.answering(
            [str(program), "serve"], f"{url}/readyz", log, environ=environ, folder=folder
        ) as pid,
    ):
        yield Target(
            NAME,
            lambda _upstream, _streams: url,
            f"ferrogw {version} (Go); gates US dollars for each key, counted afterwards in memory",
            lambda: [pid],
        )
