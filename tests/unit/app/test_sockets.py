"""Listening sockets that several processes share."""

import socket

import pytest

from gateway.app.sockets import PortTaken, address_of, listen


def test_all_sockets_share_one_free_port_and_accept() -> None:
    sockets = listen("127.0.0.1", 0, 3)
    try:
        assert len({address_of(sock) for sock in sockets}) == 1
        with socket.create_connection(sockets[0].getsockname(), timeout=5):
            pass
    finally:
        for sock in sockets:
            sock.close()


def test_a_port_that_another_gate_shares_out_is_taken_all_the_same() -> None:
    sockets = listen("127.0.0.1", 0, 1)
    port = sockets[0].getsockname()[1]
    try:
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}"):
            listen("127.0.0.1", port, 1)
    finally:
        sockets[0].close()
    again = listen("127.0.0.1", port, 2)
    for sock in again:
        sock.close()


def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        listen("192.0.2.1", 0, 1)


def test_an_ipv6_address_is_written_in_brackets() -> None:
    [sock] = listen("::1", 0, 1)
    with sock:
        assert address_of(sock) == f"[::1]:{sock.getsockname()[1]}"
