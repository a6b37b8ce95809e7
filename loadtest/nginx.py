"""A plain nginx proxy in front of the same upstreams, to measure against. Debian's nginx.

Invariants: it gets its best: one worker, kept connections on both sides, no logs; answers are
buffered on one port and passed through at once on another, as a streaming gate must.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil

from loadtest import child
from loadtest.ports import free_ports

_PROGRAMS: Final = ("nginx", "/usr/sbin/nginx")

CONFIG: Final = """\
{main}worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
{http}  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 16m;
  client_body_buffer_size 2m;
  keepalive_requests 100000000;
  proxy_http_version 1.1;
  proxy_set_header connection "";
{servers}}}
"""

_SERVER: Final = """\
  upstream up{port} {{ server {address}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_buffering {buffering};
{tls}    location / {{ proxy_pass {scheme}://up{port}; }}
  }}
"""

_TLS: Final = """\
    proxy_ssl_trusted_certificate {ca_file};
    proxy_ssl_verify on;
    proxy_ssl_name localhost;
"""


class NginxMissing(Exception):
    """nginx is not installed: `apt-get install nginx-light`."""


class NginxFailed(Exception):
    """nginx does not serve; the message holds its error log."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """An origin to proxy to; ca_file is the authority to trust when it speaks TLS."""

    url: str
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx. `ports[upstream][streams]` is where it proxies to that upstream."""

    pid: int
    ports: dict[str, dict[bool, int]]

    def url(self, upstream: str, *, streams: bool) -> str:
        """Where to send JSON requests, or streams, for this upstream."""
        return f"http://127.0.0.1:{self.ports[upstream][streams]}"

    def pids(self) -> list[int]:
        """Its master and worker."""
        return [self.pid, *(child.pid for child in psutil.Process(self.pid).children())]


def find_nginx() -> str:
    """The program's path. Raises NginxMissing."""
    for name in _PROGRAMS:
        if path := shutil.which(name):
            return path
    raise NginxMissing("nginx is not installed (Debian: apt-get install nginx-light)")


def version() -> str:
    """What it calls itself, as in "nginx/1.22.1". Raises NginxMissing."""
    said = subprocess.run([find_nginx(), "-v"], capture_output=True, text=True, check=True)
    return said.stderr.strip().rpartition(" ")[2]


@contextlib.contextmanager
def running(folder: Path, upstreams: Mapping[str, Upstream]) -> Iterator[Nginx]:
    """Run nginx in this folder until the block ends. Raises NginxMissing, NginxFailed."""
    find_nginx()
    folder.mkdir(parents=True, exist_ok=True)
    ports, servers = servers_for(upstreams, _SERVER)
    config = CONFIG.format(main="", http="", folder=folder, servers=servers)
    with serving(folder, config, ports, "/v1/models") as nginx:
        yield nginx


def servers_for(
    upstreams: Mapping[str, Upstream], template: str
) -> tuple[dict[str, dict[bool, int]], str]:
    """Free ports, as `Nginx` has them, and the blocks of the configuration that listen there.

    template: of a block; takes port, address, scheme, buffering, tls
    """
    ports: dict[str, dict[bool, int]] = {}
    servers = ""
    free = free_ports(2 * len(upstreams))
    for name, upstream in upstreams.items():
        ports[name] = {}
        scheme, _, address = upstream.url.partition("://")
        for streams in (False, True):
            ports[name][streams] = free.pop()
            servers += template.format(
                port=ports[name][streams],
                address=address,
                scheme=scheme,
                buffering="off" if streams else "on",
                tls=_TLS.format(ca_file=upstream.ca_file) if upstream.ca_file else "",
            )
    return ports, servers


@contextlib.contextmanager
def serving(
    folder: Path, config: str, ports: dict[str, dict[bool, int]], asked: str
) -> Iterator[Nginx]:
    """Run nginx by this configuration until the block ends, once `asked` is answered at every port.

    Raises NginxMissing, NginxFailed.
    """
    file = folder / "nginx.conf"
    file.write_text(config)
    command = [find_nginx(), "-p", str(folder), "-c", str(file), "-e", str(folder / "error.log")]
    with child.running(command, start_new_session=True) as process:
        nginx = Nginx(process.pid, ports)
        _wait(nginx, process, folder, asked)
        yield nginx


def _wait(nginx: Nginx, process: "subprocess.Popen[bytes]", folder: Path, asked: str) -> None:
    deadline_s = time.monotonic() + 10
    urls = [nginx.url(name, streams=s) for name in nginx.ports for s in (False, True)]
    while urls:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{urls[-1]}{asked}", timeout=2, trust_env=False)
            if answer.status_code == 200:
                urls.pop()
                continue
        if process.poll() is not None or time.monotonic() > deadline_s:
            log = (folder / "error.log").read_text() if (folder / "error.log").exists() else ""
            raise NginxFailed(f"nginx does not serve:\n{log[-2000:]}")
        time.sleep(0.05)
