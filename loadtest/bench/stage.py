"""Starts the contenders and the servers that they need, each on its cores.

Invariants: the contenders share the first core and run one at a time; load, providers, Redis and the
gate's exporter share the rest. A contender that cannot run here is reported, never dropped silently.
"""

import contextlib
import os
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from loadtest import children, nginx
from loadtest.bench.cells import KEY, MODELS
from loadtest.nginx import Upstream
from loadtest.peers import ferrogw, hardcap, litellm, nginx_lua, ours, portkey, tensorzero
from loadtest.peers.target import Missing, Target, World
from loadtest.tls import TlsFiles, make_tls_files

DIRECT: Final = "direct"
NGINX: Final = "nginx"

PLAIN_ONLY: Final = (ferrogw.NAME, litellm.NAME, litellm.CURRENT, portkey.NAME)
"""Peers that no target names: they run in front of the plain upstream only, to save time."""

Start = Callable[[World], AbstractContextManager[Target]]


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores the contenders have, and which all else."""

    proxy: tuple[int, ...]
    rest: tuple[int, ...]

    @classmethod
    def of_this_process(cls) -> "Cores":
        """The first for the contenders; one core alone is shared."""
        every = sorted(os.sched_getaffinity(0))
        return cls((every[0],), tuple(every[1:]) or (every[0],))


@dataclass(frozen=True, slots=True)
class Ground:
    """Providers, shared by all worlds."""

    upstreams: Mapping[str, Upstream]
    tls: TlsFiles
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Installed:
    """Where each peer is, whether it is installed or not: its environment's folder.

    prefix: of the folders: that of hardcap is `{prefix}-hardcap`
    """

    prefix: Path

    def folder(self, peer: str) -> Path:
        """The peer's environment."""
        return self.prefix.with_name(f"{self.prefix.name}-{peer.replace(' ', '-')}")

    def python(self, peer: str) -> Path:
        """The peer's Python."""
        return self.folder(peer) / "bin" / "python"


@contextlib.contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """What is started inside runs on these cores, and this process too."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


@contextlib.contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """The providers, one of them behind TLS."""
    tls = make_tls_files(folder)
    with children.provider() as plain, children.provider(tls) as secure:
        upstreams = {"plain": Upstream(plain.url), "tls": Upstream(secure.url, tls.authority)}
        yield Ground(upstreams, tls, (plain.pid, secure.pid))


@contextlib.contextmanager
def world(folder: Path, on: Ground) -> Iterator[tuple[World, int]]:
    """A new folder with a separate Redis on this ground, and that Redis's pid."""
    folder.mkdir()
    with children.valkey(folder) as store:
        yield World(folder, on.upstreams, store.socket, KEY, MODELS), store.pid


def starters(
    cores: Cores, on: Ground, installed: Installed, gate_command: Sequence[str]
) -> dict[str, Start]:
    """How each contender is started, in the order in which they are shown."""
    python = installed.python
    trust = ssl.create_default_context(cafile=str(on.tls.authority))
    return {
        DIRECT: partial(_direct, trust),
        NGINX: _plain_nginx,
        nginx_lua.NAME: partial(nginx_lua.contender, pooled=False),
        nginx_lua.POOLED: partial(nginx_lua.contender, pooled=True),
        ours.NAME: partial(ours.running, command=gate_command, rest=cores.rest),
        tensorzero.NAME: partial(tensorzero.running, python=python(tensorzero.NAME)),
        ferrogw.NAME: partial(ferrogw.running, python=python(ferrogw.NAME)),
        hardcap.NAME: partial(hardcap.running, python=python(hardcap.NAME)),
        litellm.NAME: partial(litellm.running, python=python(litellm.NAME)),
        litellm.CURRENT: partial(
            litellm.running, python=python(litellm.CURRENT), name=litellm.CURRENT
        ),
        portkey.NAME: partial(portkey.running, installed=installed.folder(portkey.NAME)),
    }


@contextlib.contextmanager
def _direct(trust: ssl.SSLContext, world: World) -> Iterator[Target]:
    urls = {name: upstream.url for name, upstream in world.upstreams.items()}
    yield Target(DIRECT, lambda upstream, _: urls[upstream], "the provider itself", tls=trust)


@contextlib.contextmanager
def _plain_nginx(world: World) -> Iterator[Target]:
    with nginx.running(world.folder / NGINX, world.upstreams) as proxy:
        yield Target(
            NGINX,
            lambda upstream, streams: proxy.url(upstream, streams=streams),
            f"{nginx.version()}, proxy_pass, one worker, no gate",
            proxy.pids,
        )


@contextlib.contextmanager
def started(
    world: World,
    cores: Cores,
    starting: Mapping[str, Start],
    on_start: Callable[[str], None] = lambda _name: None,
) -> Iterator[tuple[list[Target], dict[str, str]]]:
    """These contenders, running, and of each that cannot run here why.

    on_start: called with the name of each before it starts
    Raises GateFailed when it is the gate.
    """
    targets, missing = [], {}
    with contextlib.ExitStack() as stack:
        for name, start in starting.items():
            on_start(name)
            try:
                with on_cores(cores.proxy):
                    targets.append(stack.enter_context(start(world)))
            except (Missing, nginx.NginxMissing, nginx.NginxFailed, children.NotStarted) as error:
                missing[name] = str(error)
        yield targets, missing
