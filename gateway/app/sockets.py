"""Listening sockets: one per worker on one port, shared by the kernel (SO_REUSEPORT)."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterable
from typing import Final

from gateway.app.parts import CannotStart, Listener, Plan
from gateway.app.roles import Role

_BACKLOG: Final = 1024
_RETRY_FOR_S: Final = 1.5
"""A predecessor that was killed has workers that let go of the port a moment later."""


class PortTaken(Exception):
    """Another program listens there. The message names the address."""


def bind_all(
    plan: Plan, roles: Iterable[Role], held: contextlib.ExitStack
) -> tuple[dict[str, list[socket.socket]], socket.socket]:
    """Sockets for the processes of each listener, and the admin port's. Raises CannotStart.

    held: closes them
    """
    counts: dict[str, int] = {}
    for role in roles:
        if role.listens is not None:
            counts[role.listens] = counts.get(role.listens, 0) + role.count
    bound = {name: _bind(plan.listeners[name], count, held) for name, count in counts.items()}
    [admin] = _bind(plan.admin, 1, held)
    return bound, admin


def _bind(listener: Listener, count: int, held: contextlib.ExitStack) -> list[socket.socket]:
    bound = bind(listener.host, listener.port, count, listener.shown)
    for sock in bound:
        held.callback(sock.close)
    return bound


def bind(host: str, port: int, count: int, what: str) -> list[socket.socket]:
    """`listen`, with errors for the operator. what: names the port and its option.

    Raises CannotStart.
    """
    try:
        return listen(host, port, count)
    except PortTaken as error:
        raise CannotStart(
            f"another program listens on {error}: choose another for {what}"
        ) from error
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        ) from error


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address; port 0 picks a free one for all of them.

    SO_REUSEPORT would let a second gate of the same user share the port in silence, so the
    port is first tried without it. Raises PortTaken, or OSError for an address that is not ours.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sockets: list[socket.socket] = []
    try:
        if port:
            _try_alone(family, address)
        for _ in range(count):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
            address = sock.getsockname()
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def address_of(sock: socket.socket) -> str:
    """host:port of a listening socket, as a URL writes it."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _try_alone(family: socket.AddressFamily, address: object) -> None:
    deadline = time.monotonic() + _RETRY_FOR_S
    while True:
        with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(address)  # type: ignore[arg-type]
                sock.listen(1)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                if time.monotonic() > deadline:
                    raise PortTaken(f"{address[0]}:{address[1]}") from error  # type: ignore[index]
        time.sleep(0.05)
