"""TLS contexts of upstreams from their sections."""

import ssl

from gateway.app.roles import CannotServe
from gateway.http.client.opening import upstream_tls
from gateway.settings.upstreams import UpstreamSection


def upstream_context(name: str, upstream: UpstreamSection) -> ssl.SSLContext:
    """The TLS context of an upstream. Raises CannotServe when its certificates cannot be used."""
    tls = upstream.tls
    try:
        return upstream_tls(
            ca_file=tls.ca_file,
            verify=tls.verify,
            client_certificate=tls.client_cert,
            client_key=tls.client_key,
        )
    except (OSError, ssl.SSLError) as error:
        raise CannotServe(
            f"upstreams.{name}.tls: the certificates cannot be used ({type(error).__name__})"
        ) from error
