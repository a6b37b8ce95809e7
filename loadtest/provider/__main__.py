"""Serves a simulated provider until it is stopped; prints its URL as its first line."""

import argparse
import asyncio
import signal
import ssl

import uvloop

from loadtest.faults import Controls, parse_controls
from loadtest.provider import Provider, running


async def _serve(arguments: argparse.Namespace) -> None:
    tls = None
    if arguments.cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.cert, arguments.key)
    provider = Provider(
        parse_controls(Controls(), arguments.sim),
        seed=arguments.seed,
        api_key=arguments.api_key,
        record=arguments.record,
        idle_close_s=arguments.idle_close_ms / 1e3 if arguments.idle_close_ms else None,
    )
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running(provider, host=arguments.host, port=arguments.port, tls=tls) as url:
        print(url, flush=True)
        await stopped.wait()


def main() -> None:
    """Entry point of `python -m loadtest.provider`."""
    parser = argparse.ArgumentParser(prog="loadtest.provider", description="A simulated provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--sim", default="", help="controls of every answer, see loadtest/faults.py"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every random draw")
    parser.add_argument("--api-key", help="refuse requests that do not bring this key")
    parser.add_argument("--record", action="store_true", help="keep headers and bodies in /_served")
    parser.add_argument("--idle-close-ms", type=float, help="close idle connections after this")
    parser.add_argument("--cert", help="PEM file of the certificate: serve TLS")
    parser.add_argument("--key", help="PEM file of its key")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
