"""TLS contexts of the gate's own ports, made from files of certificates.

The files are checked one by one, so that an error names the file and says what is wrong with it. A
port that serves by a context takes a new one for its next handshake; open connections keep theirs.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ALPN: Final = ("http/1.1",)


class BadCertificate(Exception):
    """A file cannot be used. The message says why and holds nothing of the file's contents.

    file: which of the three it is about
    """

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The files of one port, PEM.

    cert_file:  the certificate, followed by the intermediate ones
    client_ca:  if set, clients must show a certificate signed by one of these
    """

    cert_file: Path
    key_file: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files into a context: TLS 1.2 or newer, HTTP/1.1 alone. Raises BadCertificate."""
        _check_certificates(self.cert_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(_ALPN)
        self._load(context)
        if self.client_ca is not None:
            _check_certificates(self.client_ca)
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
            # A resumed session is not verified again, not even after `client_ca` has changed.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        encrypted = False

        def no_password() -> str:
            nonlocal encrypted
            encrypted = True
            return ""

        try:
            self.key_file.read_bytes()
            context.load_cert_chain(self.cert_file, self.key_file, no_password)
        except ssl.SSLError as error:
            if encrypted:
                problem = "the private key is encrypted; store it without a passphrase"
            elif error.reason == "KEY_VALUES_MISMATCH":
                problem = f"the private key does not belong to the certificate in {self.cert_file}"
            elif error.reason and "KEY_TOO_SMALL" in error.reason:
                raise BadCertificate(self.cert_file, "its key is too short to be safe") from error
            else:
                problem = "is not a private key in PEM format"
            raise BadCertificate(self.key_file, problem) from error
        except OSError as error:
            raise _unreadable(self.key_file, error) from error


def following(current: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return a context whose handshakes use what `current` returns at that moment.

    For servers that take one context at their start and keep it.
    """

    def choose(connection: ssl.SSLObject, _name: str | None, _front: ssl.SSLContext) -> None:
        connection.context = current()

    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    first = current()
    front.minimum_version = first.minimum_version
    front.verify_mode = first.verify_mode
    front.options |= first.options | ssl.OP_NO_TICKET
    front.num_tickets = 0
    front.set_alpn_protocols(_ALPN)
    front.sni_callback = choose
    return front


def _check_certificates(file: Path) -> None:
    """Raise BadCertificate unless the file holds certificates."""
    try:
        file.read_bytes()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError as error:
        raise BadCertificate(file, "is not a certificate in PEM format") from error
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> BadCertificate:
    return BadCertificate(file, f"cannot be read: {error.strerror or type(error).__name__}")
