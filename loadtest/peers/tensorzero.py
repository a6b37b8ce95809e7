"""TensorZero's gateway (Rust), from an environment of its own (`requirements-tensorzero.lock`).

It ships as a Python wheel whose extension holds the HTTP server; Python only starts it. Observability
and the databases are off; rate limits are counted in Valkey, in one server function a call, for each
`user_id` tag: tokens and inferences. A request reserves its input estimate and `max_tokens`, and its
usage replaces that afterwards. It knows no money, writes no events, and checks no key: that would need
its Postgres.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from loadtest import child, children
from loadtest.gate import MODEL
from loadtest.peers.target import Missing, Target, World

NAME: Final = "tensorzero"
PATH: Final = "/openai/v1/chat/completions"
_ENDLESS: Final = 10**12
_READY_S: Final = 30.0
_START: Final = """\
import os, sys, time
from tensorzero.tensorzero import _start_http_gateway
config, valkey, ready = sys.argv[1:]
gateway = _start_http_gateway(
    config_file=config, clickhouse_url=None, postgres_url=None, valkey_url=valkey, async_setup=False
)
with open(ready + "-", "w") as file:
    file.write(gateway.base_url)
os.rename(ready + "-", ready)
while True:
    time.sleep(3600)
"""


@dataclass(frozen=True, slots=True)
class Replica:
    """A running one. url: its origin, without a path."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Limits of one user, or of each user that no other rule names.

    limits: lines of TOML, such as "tokens_per_minute = 1000"
    user:   value of the tag `user_id`; None for each
    """

    limits: Sequence[str]
    user: str | None = None

    def toml(self) -> str:
        """Return it as TOML; a rule that names a user takes precedence."""
        lines = "\n".join(self.limits)
        scope = f'{{ tag_key = "user_id", tag_value = "{self.user or "tensorzero::each"}" }}'
        return (
            f"[[rate_limiting.rules]]\npriority = {int(self.user is not None)}\n{lines}\n"
            f"scope = [{scope}]\n"
        )


def config(upstreams: Mapping[str, str], rules: Sequence[Rule]) -> str:
    """Return its configuration (TOML). upstreams: base URL of the provider by the model's name"""
    models = "".join(
        f'[models.{model}]\nrouting = ["sim"]\n[models.{model}.providers.sim]\ntype = "openai"\n'
        f'model_name = "{MODEL}"\napi_base = "{url}/v1/"\napi_key_location = "none"\n'
        for model, url in upstreams.items()
    )
    limits = "".join(rule.toml() for rule in rules)
    head = "gateway.observability.enabled = false\n"
    return f"{head}{models}[rate_limiting]\nenabled = true\n{limits}"


def members(model: str, user: str) -> dict[str, Any]:
    """Return the members that a request's body needs here: the model's full name, and whose it is."""
    return {"model": f"tensorzero::model_name::{model}", "tensorzero::tags": {"user_id": user}}


@contextlib.contextmanager
def serving(
    python: Path,
    configured: Path,
    redis: Path,
    log: BinaryIO,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Replica]:
    """Run one of it by this Python and configuration. Raises NotStarted."""
    ready = Path(log.name).with_suffix(".url")
    command = [str(python), "-c", _START, str(configured), f"unix://{redis}", str(ready)]
    with child.running(
        command,
        stdout=log,
        stderr=log,
        env=children.environment(environ),
        start_new_session=True,
    ) as process:
        deadline_s = time.monotonic() + _READY_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline_s:
                said = Path(log.name).read_text(errors="replace")
                raise children.NotStarted(f"TensorZero does not start:\n{said[-2000:]}")
            time.sleep(0.05)
        yield Replica(ready.read_text().removesuffix("/openai/v1"), process.pid)


@contextlib.contextmanager
def running(world: World, python: Path) -> Iterator[Target]:
    """Run it with limits that nobody reaches. Raises Missing, NotStarted."""
    if not python.exists():
        raise Missing("TensorZero is not installed (requirements-tensorzero.lock)")
    folder = world.folder / NAME
    folder.mkdir()
    configured = folder / "tensorzero.toml"
    limits = [f"{of}_per_minute = {_ENDLESS}" for of in ("tokens", "model_inferences")]
    urls = {model: world.upstreams[name].url for name, model in world.models.items()}
    configured.write_text(config(urls, [Rule(limits)]))
    version = children.installed_version(python, "tensorzero")
    trusted = {"SSL_CERT_FILE": str(world.upstreams["tls"].ca_file)}
    with (
        (folder / "log").open("wb") as log,
        serving(python, configured, world.redis, log, trusted) as one,
    ):
        yield Target(
            NAME,
            lambda _upstream, _streams: one.url,
            f"TensorZero {version} (Rust); gates tokens and requests a minute for each user in Valkey;"
            " no keys, no money, no events",
            lambda: [one.pid],
            members=lambda upstream: members(world.models[upstream], "load"),
            path=PATH,
            ledger=True,
        )
