"""The gate itself: one worker, everything switched on as by default."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from loadtest import gate
from loadtest.interpreters import probe
from loadtest.peers.target import Target, World

NAME = "gate"


@contextlib.contextmanager
def running(world: World, command: Sequence[str], rest: Sequence[int]) -> Iterator[Target]:
    """Run `command` as the gate; its exporter goes to the cores `rest`. Raises GateFailed."""
    folder = world.folder / NAME
    folder.mkdir()
    secure = world.upstreams["tls"]
    assert secure.ca_file is not None
    config = gate.write_config(
        folder,
        world.upstreams["plain"].url,
        tls_upstream=(secure.url, secure.ca_file),
        redis_url=f"unix://{world.redis}",
        keys=(world.key,),
    )
    with gate.serving(config, command=command) as serving:
        for pid in serving.pids("exporter"):
            psutil.Process(pid).cpu_affinity(list(rest))
        yield Target(
            NAME,
            lambda _upstream, _streams: serving.url,
            "creditgate, one worker, its defaults; gates credit, limits and"
            " prices in Redis, writes an event for each request",
            lambda: serving.pids("worker"),
            lambda: [*serving.pids("exporter"), *serving.pids("supervisor")],
            python=probe(Path(command[0])),
            ledger=True,
        )
