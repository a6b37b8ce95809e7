"""Puts load on a gate or a provider from the command line."""

import argparse
import ssl

import uvloop
from rich.console import Console

from loadtest.generator import Load, Result, summary, watched
from loadtest.requests import CHAT_PATH, CLIENT_HEADERS, Shot, chat_body, http_request, same


def main() -> None:
    """Entry point of `python -m loadtest.generator`."""
    parser = argparse.ArgumentParser(prog="loadtest.generator", description="Load on a gate.")
    parser.add_argument("url", help="http://host:port of the gate or the provider")
    parser.add_argument("--key", default="sk-demo")
    parser.add_argument("--model", default="sim-small")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, help="requests a second, open loop; else closed")
    parser.add_argument("--bytes", type=int, default=950, help="size of a request's body")
    parser.add_argument("--ca", help="PEM file of the authority to trust")
    arguments = parser.parse_args()
    body = chat_body(arguments.model, stream=arguments.stream, size_bytes=arguments.bytes)
    headers = {**CLIENT_HEADERS, "authorization": f"Bearer {arguments.key}"}
    shot = Shot(http_request(CHAT_PATH, body, headers))
    console = Console()

    async def run() -> Result:
        load = Load(
            arguments.url,
            same(shot),
            connections=arguments.connections,
            seconds=arguments.seconds,
            rate=arguments.rate,
            tls=ssl.create_default_context(cafile=arguments.ca) if arguments.ca else None,
        )
        return await watched(load, console)

    console.print(summary(uvloop.run(run())))


if __name__ == "__main__":
    main()
