"""The container image's health check: `python -m gateway.app.alive [PORT]` exits 0 if the admin port of
this machine answers `/healthz`, with or without TLS.

It runs every few seconds, so it imports only the standard library and does not read the configuration.
The certificate is not verified: it is for other host names than 127.0.0.1. A port that demands a
client's certificate counts as alive: to refuse the handshake, the supervisor must be running.
"""

import http.client
import ssl
import sys
from typing import Final

TIMEOUT_S: Final = 2.0
_PORT: Final = 8081
_CERTIFICATE_DEMANDED: Final = "CERTIFICATE_REQUIRED"


def alive(port: int) -> bool:
    """Whether the supervisor behind this admin port answers."""
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    return _healthy(plain) or _healthy_over_tls(port)


def _healthy_over_tls(port: int) -> bool:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    secured = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=trusting)
    try:
        return _healthy(secured)
    except ssl.SSLError as error:
        return _CERTIFICATE_DEMANDED in (error.reason or "")


def _healthy(connection: http.client.HTTPConnection) -> bool:
    """Raises ssl.SSLError."""
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except ssl.SSLError:
        raise
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if alive(int(sys.argv[1]) if len(sys.argv) > 1 else _PORT) else 1)
