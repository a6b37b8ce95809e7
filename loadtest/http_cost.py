"""What the HTTP layers alone cost: CPU µs per proxied request, without any gate in between.

    python -m loadtest.http_cost [--requests 20000] [--concurrency 32] [--rounds 5]

One process holds the server and the upstream client and passes bodies through with a handler of
five lines; an upstream and a load generator run in processes of their own. CPU is that process's
own user and system time. Rows: plain upstream, TLS upstream; 695 B answers and 1 MB ones; the
server alone (it answers by itself), and the least one could do: a bare httptools protocol that
answers by itself. Medians over rounds that visit the rows in turn. On a machine with few cores
compare within one run only.
"""

import argparse
import asyncio
import multiprocessing
import resource
import socket
import ssl
import statistics
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import cast

import httptools
import uvloop

from gateway.http.client.opening import upstream_tls
from gateway.http.client.pool import UpstreamPool
from gateway.http.interface import Exchange, encode_fields
from gateway.http.server.server import HttpServer
from loadtest.certificates import write_certificates

SMALL_BYTES = 695
BIG_BYTES = 1_000_000
REQUEST_BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 890)
REQUEST_FIELDS = (
    b"host: gate.example\r\nuser-agent: bench/1\r\naccept: application/json\r\n"
    b"authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\n"
    b"content-type: application/json\r\naccept-encoding: identity\r\n"
    b"x-stainless-lang: python\r\nx-stainless-os: Linux\r\nx-stainless-arch: x64\r\n"
    b"x-stainless-retry-count: 0\r\n"
)


class AnsweringProtocol(asyncio.Protocol):
    """Answers every request with the same bytes: the upstream, and the bare server to compare with.

    A path that ends in "big" gets the big body.
    """

    def __init__(self, small: bytes, big: bytes) -> None:
        self._small = small
        self._big = big
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url

    def on_message_complete(self) -> None:
        self._transport.write(self._big if self._path.endswith(b"big") else self._small)


def answer_of(size: int) -> bytes:
    """A JSON answer with a body of `size` bytes."""
    body = b'{"id":"%b"}' % (b"a" * (size - 9))
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: bench\r\n"
        b"x-request-id: 0123456789abcdef\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )


async def serve_answers(tls: ssl.SSLContext | None) -> tuple[asyncio.Server, int]:
    """Start a server of `AnsweringProtocol` on a free port."""
    small, big = answer_of(SMALL_BYTES), answer_of(BIG_BYTES)
    server = await asyncio.get_running_loop().create_server(
        lambda: AnsweringProtocol(small, big), "127.0.0.1", 0, ssl=tls
    )
    return server, server.sockets[0].getsockname()[1]


def run_upstream(pipe: Pipe, certificate: Path, key: Path) -> None:
    """Process: the upstream, plain and TLS; says its ports, ends when the pipe does."""

    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        _, plain = await serve_answers(None)
        _, secure = await serve_answers(context)
        pipe.send((plain, secure))
        await asyncio.to_thread(_wait_for_end, pipe)

    uvloop.run(main())


def run_proxy(pipe: Pipe, plain: int, secure: int, ca: Path) -> None:
    """Process under test; sends its ports, then its CPU seconds whenever it is asked."""

    async def main() -> None:
        pools = {
            "/plain": UpstreamPool("plain", f"http://127.0.0.1:{plain}"),
            "/tls": UpstreamPool(
                "tls", f"https://localhost:{secure}", tls=upstream_tls(ca_file=ca)
            ),
        }
        own = b"x" * SMALL_BYTES

        async def handler(exchange: Exchange) -> None:
            body = await exchange.read_body(1 << 20)
            pool = pools.get(exchange.path.removesuffix("big"))
            if pool is None:
                await exchange.answer(200, b"content-type: application/json\r\n", own)
                return
            fields = [(name.encode(), value.encode()) for name, value in exchange.headers()]
            answer = await pool.send("POST", exchange.path, encode_fields(fields), body)
            pieces = []
            while piece := await answer.read():
                pieces.append(piece)
            answer.close()
            back = encode_fields(answer.headers)
            await exchange.answer(answer.status, back, b"".join(pieces))

        server = HttpServer(handler)
        sock = bound_socket()
        await server.start(sock)
        _, bare = await serve_answers(None)
        pipe.send((sock.getsockname()[1], bare))
        await asyncio.to_thread(_answer_cpu, pipe)
        await server.close()

    uvloop.run(main())


def _wait_for_end(pipe: Pipe) -> None:
    try:
        pipe.recv()
    except EOFError:
        return


def _answer_cpu(pipe: Pipe) -> None:
    while pipe.recv() == "cpu":
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(used.ru_utime + used.ru_stime)


def bound_socket() -> socket.socket:
    """A TCP socket on a free port of the loopback address."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


class LoadProtocol(asyncio.Protocol):
    """One connection of the load: the next request when the answer before it is whole."""

    def __init__(self, request: bytes, load: "Load") -> None:
        self._request = request
        self._load = load

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._parser.get_status_code() == 200
        if self._load.take():
            self._transport.write(self._request)
        else:
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._load.connection_ended()


class Load:
    """A closed loop of `concurrency` connections for `requests` requests in all."""

    def __init__(self, requests: int, concurrency: int) -> None:
        self._left = requests - concurrency
        self._open = concurrency
        self._ended = asyncio.get_running_loop().create_future()

    def take(self) -> bool:
        """Whether one more request is to be sent."""
        self._left -= 1
        return self._left >= 0

    def connection_ended(self) -> None:
        """A connection has closed."""
        self._open -= 1
        if not self._open:
            self._ended.set_result(None)

    @classmethod
    async def run(cls, port: int, path: str, requests: int, concurrency: int) -> None:
        """Run the load to its end."""
        load = cls(requests, concurrency)
        request = b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (
            path.encode(),
            REQUEST_FIELDS,
            len(REQUEST_BODY),
            REQUEST_BODY,
        )
        loop = asyncio.get_running_loop()
        for _ in range(concurrency):
            await loop.create_connection(lambda: LoadProtocol(request, load), "127.0.0.1", port)
        await load._ended


@dataclass(frozen=True)
class Row:
    """One line of the table. share: its part of --requests (big bodies take longer)."""

    title: str
    path: str
    bare: bool = False
    share: float = 1.0


ROWS = (
    Row("server + client, plain upstream, 695 B", "/plain"),
    Row("server + client, TLS upstream, 695 B", "/tls"),
    Row("server + client, plain upstream, 1 MB", "/plainbig", share=0.02),
    Row("server + client, TLS upstream, 1 MB", "/tlsbig", share=0.02),
    Row("server alone", "/alone"),
    Row("bare httptools protocol alone", "/alone", bare=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000, help="per row and round")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ca, certificate, key = write_certificates(Path(folder))
        upstream, upstream_end = spawn.Pipe()
        process = spawn.Process(target=run_upstream, args=(upstream_end, certificate, key))
        process.start()
        plain, secure = upstream.recv()
        proxy, proxy_end = spawn.Pipe()
        tested = spawn.Process(target=run_proxy, args=(proxy_end, plain, secure, ca))
        tested.start()
        served, bare = proxy.recv()
        figures: dict[Row, list[float]] = {row: [] for row in ROWS}

        def cpu_s() -> float:
            proxy.send("cpu")
            return float(proxy.recv())

        for measured in range(-1, options.rounds):
            for row in ROWS:
                count = max(int(options.requests * row.share), options.concurrency)
                before = cpu_s()
                port = bare if row.bare else served
                uvloop.run(Load.run(port, row.path, count, options.concurrency))
                if measured >= 0:
                    figures[row].append((cpu_s() - before) / count * 1e6)
        proxy.send("end")
        upstream.send("end")
        tested.join()
        process.join()
    print(f"CPU µs per request, concurrency {options.concurrency}, medians of {options.rounds}")
    for row, values in figures.items():
        print(
            f"{row.title:45} {statistics.median(values):8.1f}  ({min(values):.1f}…{max(values):.1f})"
        )


if __name__ == "__main__":
    main()
