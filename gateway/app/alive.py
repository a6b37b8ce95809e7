"""The container image's health check: `python -m gateway.app.alive [PORT]` exits 0 if the admin port of
this machine answers `/healthz`, with or without TLS.

It runs every few seconds, so it imports only the standard library and does not read the configuration.
The certificate is not verified: it is for other host names than 127.0.0.1. A port that demands a
client's certificate shakes hands and then closes; only a running supervisor does that.
"""

import http.client
import ssl
import sys
from typing import Final

TIMEOUT_S: Final = 2.0
_PORT: Final = 8081
_HOST: Final = "127.0.0.1"


def alive(port: int) -> bool:
    """Whether the supervisor behind this admin port answers."""
    try:
        return _status(http.client.HTTPConnection(_HOST, port, timeout=TIMEOUT_S)) == 200
    except ConnectionRefusedError:
        return False
    except (OSError, http.client.HTTPException):
        return _alive_with_tls(port)


def _alive_with_tls(port: int) -> bool:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    secured = http.client.HTTPSConnection(_HOST, port, timeout=TIMEOUT_S, context=trusting)
    try:
        secured.connect()
    except OSError:
        return False
    try:
        return _status(secured) == 200
    except TimeoutError:
        return False
    except (OSError, http.client.HTTPException):
        return True


def _status(connection: http.client.HTTPConnection) -> int:
    """Raises OSError, HTTPException."""
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if alive(int(sys.argv[1]) if len(sys.argv) > 1 else _PORT) else 1)
