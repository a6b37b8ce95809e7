"""A claimed port is nobody else's, even while no server listens on it."""

import socket

from loadtest.topology import ports


def test_claimed_ports_differ_and_can_be_listened_on() -> None:
    claims = [ports.ClaimedPort() for _ in range(20)]
    assert len({claim.port for claim in claims}) == 20
    with socket.socket() as server:
        server.bind(("127.0.0.1", claims[0].port))
        server.listen()
    for claim in claims:
        claim.release()


def test_a_claimed_port_cannot_be_claimed_again_until_it_is_released() -> None:
    claim = ports.ClaimedPort()
    assert ports._claim(claim.port) is None
    claim.release()
    claim.release()
    again = ports._claim(claim.port)
    assert again is not None
    again.close()


def test_a_port_somebody_listens_on_is_not_claimed() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert ports._claim(server.getsockname()[1]) is None
