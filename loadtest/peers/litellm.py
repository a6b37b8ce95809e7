"""LiteLLM's proxy, from an environment of its own, without a database.

Two versions run: the pinned one, of which published figures speak (`requirements-litellm.lock`), and
the newest that can be installed (`requirements-litellm-current.lock`).

One worker, production mode, no telemetry, errors alone in the log, keys checked against its master
key alone: it counts the usage of each answer but holds nothing and charges nobody.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from loadtest import children
from loadtest.gate import MODEL
from loadtest.interpreters import probe
from loadtest.peers.target import Missing, Target, World
from loadtest.ports import free_ports

NAME: Final = "litellm"
CURRENT: Final = "litellm current"
_READY_S: Final = 180.0  # it imports for 20 s on an idle core


@contextlib.contextmanager
def running(world: World, python: Path, name: str = NAME) -> Iterator[Target]:
    """Run the version that this Python has, under a contender's name. Raises Missing, NotStarted."""
    program = python.parent / "litellm"
    if not program.exists():
        lock = f"requirements-{name.replace(' ', '-')}.lock"
        raise Missing(f"LiteLLM is not installed ({lock})")
    folder = world.folder / name.replace(" ", "-")
    folder.mkdir()
    models = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{MODEL}",
                "api_base": f"{world.upstreams[name].url}/v1",
                "api_key": "none",
            },
        }
        for name, model in world.models.items()
    ]
    config = folder / "litellm.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "model_list": models,
                "litellm_settings": {"telemetry": False},
                "general_settings": {"master_key": world.key},
            }
        )
    )
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environ = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "SSL_CERT_FILE": str(world.upstreams["tls"].ca_file),
    }
    version = children.installed_version(python, "litellm")
    with (
        (folder / "log").open("wb") as log,
        children.answering(
            [*command, "--num_workers", "1"],
            f"{url}/health/liveliness",
            log,
            environ=environ,
            folder=folder,
            ready_s=_READY_S,
        ) as pid,
    ):
        yield Target(
            name,
            lambda _upstream, _streams: url,
            f"LiteLLM {version}, proxy without database, one worker; checks one key, gates nothing",
            lambda: [pid],
            python=probe(python),
        )
