"""Free ports for programs that cannot take port 0."""

import contextlib
import socket


def free_ports(count: int) -> list[int]:
    """This many different TCP ports that were free on 127.0.0.1 a moment ago."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
