"""nginx with a minimal gate in Lua, on Debian's module: the limit to beat.

It does what a prepaid gate must: finds the customer by key, parses the body, holds the most that it
can cost by one script, proxies, reads the usage, and by another script charges it and writes the
event. Nothing else: no limits, grants, tiers, checkpoints, idempotence, strict parse. It gets its
best: one worker, no logs, kept connections, settles that nobody waits for over one pipelined
connection; reserves of all requests over that one too, or each over one of a pool.

Invariants: `gate.lua` decides, `reserve.lua` and `settle.lua` run in Redis; a request whose usage was
not read is charged 0, which a healthy provider never makes it do (a test compares the sums).
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from loadtest import nginx
from loadtest.peers.target import Missing, Target, World

NAME: Final = "nginx+lua"
POOLED: Final = "nginx+lua pooled"
OUTBOX: Final = "out"
MODULES: Final = ("ndk_http_module.so", "ngx_http_lua_module.so")
_MODULE_FOLDERS: Final = (Path("/usr/lib/nginx/modules"), Path("/usr/share/nginx/modules"))
_CODE: Final = Path(__file__).with_name("nginx_lua")

_MAIN: Final = """\
{modules}
{user}"""

_HTTP: Final = """\
  lua_package_path "{code}/?.lua;;";
  init_by_lua_block {{
    gate = require "gate"
    gate.init {{
      redis = "{redis}",
      keys = {{ {keys} }},
      prices = {{ {prices} }},
      pooled = {pooled},
      scripts = {{ reserve = "{reserve}", settle = "{settle}" }},
    }}
  }}
  init_worker_by_lua_block {{ gate.start() }}
"""

_SERVER: Final = """\
  upstream up{port} {{ server {address}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_buffering {buffering};
{tls}    location /healthz {{ return 200; }}
    location / {{
      access_by_lua_block {{ gate.access() }}
      proxy_pass {scheme}://up{port};
      body_filter_by_lua_block {{ gate.body() }}
      log_by_lua_block {{ gate.log() }}
    }}
  }}
"""


class LuaMissing(Missing):
    """nginx's Lua module is not installed: `apt-get install libnginx-mod-http-lua lua-cjson`."""


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-credits per token; `most`: the output where the caller names no maximum."""

    input_nano: float
    output_nano: float
    most: int = 16_384


@contextlib.contextmanager
def running(
    folder: Path,
    upstreams: Mapping[str, nginx.Upstream],
    *,
    redis_socket: Path,
    customers: Mapping[str, str],
    prices: Mapping[str, Price],
    pooled: bool = False,
    credit_nano: int = 9_000_000_000_000_000,
) -> Iterator[nginx.Nginx]:
    """Run it in this folder until the block ends; each customer's wallet is filled.

    customers: API key in clear → customer
    pooled:    each reserve takes a connection of a pool, instead of the one that all share
    Raises NginxMissing, LuaMissing, NginxFailed.
    """
    nginx.find_nginx()
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    with redis.Redis(unix_socket_path=str(redis_socket)) as client:
        for name in ("reserve", "settle"):
            source = (_CODE / f"{name}.lua").read_bytes()
            client.script_load(source)
            digests[name] = hashlib.sha1(source, usedforsecurity=False).hexdigest()
        for customer in customers.values():
            client.hset(f"w:{customer}", mapping={"balance": credit_nano, "held": 0})
    ports, servers = nginx.servers_for(upstreams, _SERVER)
    config = nginx.CONFIG.format(
        main=_MAIN.format(
            modules="\n".join(f"load_module {path};" for path in _modules()),
            # The worker must reach the ledger's socket: it is who started it.
            user="user root;\n" if os.geteuid() == 0 else "",
        ),
        http=_HTTP.format(
            code=_CODE,
            redis=redis_socket,
            pooled=str(pooled).lower(),
            keys=", ".join(f'["{key}"] = "{name}"' for key, name in customers.items()),
            prices=", ".join(
                f'["{model}"] = {{ input = {price.input_nano}, output = {price.output_nano},'
                f" most = {price.most} }}"
                for model, price in prices.items()
            ),
            **digests,
        ),
        folder=folder,
        servers=servers,
    )
    with nginx.serving(folder, config, ports, "/healthz") as running_nginx:
        yield running_nginx


def _modules() -> list[Path]:
    for place in _MODULE_FOLDERS:
        found = [place / name for name in MODULES]
        if all(path.exists() for path in found):
            return found
    raise LuaMissing(
        "nginx has no Lua module (Debian: apt-get install libnginx-mod-http-lua lua-cjson)"
    )


@contextlib.contextmanager
def contender(world: World, *, pooled: bool) -> Iterator[Target]:
    """One of its variants, for the benchmark. Raises NginxMissing, LuaMissing, NginxFailed."""
    name = POOLED if pooled else NAME
    prices = dict.fromkeys(world.models.values(), Price(500, 2000))
    with (
        running(
            world.folder / name.replace(" ", "-"),
            world.upstreams,
            redis_socket=world.redis,
            customers={world.key: "load"},
            prices=prices,
            pooled=pooled,
        ) as proxy,
        redis.Redis(unix_socket_path=str(world.redis)) as client,
    ):
        reserves = "each over a connection of a pool" if pooled else "coalesced on one connection"
        yield Target(
            name,
            lambda upstream, streams: proxy.url(upstream, streams=streams),
            f"{nginx.version()} with a gate in Lua: settles queued, reserves {reserves}",
            proxy.pids,
            ledger=True,
            tidy=lambda: _drop_events(client),
        )


def _drop_events(client: "redis.Redis") -> None:
    client.unlink(OUTBOX)
