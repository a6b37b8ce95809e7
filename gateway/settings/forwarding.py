"""Which headers pass, in which direction, and which secrets must not: compiled per upstream."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from gateway.flow.blanking import secrets_of
from gateway.flow.credentials import TrustedHeader
from gateway.flow.headers import Forwarding, Passing
from gateway.http.interface import Headers
from gateway.settings.root import Settings
from gateway.settings.upstreams import UpstreamSection

_NAMES_A_SECRET: Final = re.compile("auth|cookie|key|password|secret|signature|token")


def compile_forwarding(settings: Settings) -> dict[str, Forwarding]:
    """List, per upstream, the request headers that may pass. Headers of a gateway in front that
    identify customers do not."""
    trusted = compile_trusted_header(settings)
    internal = frozenset(trusted.names if trusted else ())
    if settings.tracing is not None:
        internal |= {"traceparent"}  # the gate sends one of its own
    return {
        name: Forwarding(
            injected_headers(upstream),
            Passing(
                request=frozenset((*upstream.forward_headers, *_metered_headers(settings, name))),
                betas=frozenset(upstream.allowed_betas),
                answer=frozenset(upstream.return_headers),
                internal=internal,
            ),
        )
        for name, upstream in settings.upstreams.items()
    }


def _metered_headers(settings: Settings, upstream: str) -> Iterator[str]:
    """List request headers that price routes of an upstream: the upstream must receive them."""
    for route in settings.routes.values():
        if route.upstream == upstream:
            for quantity in route.meter.values():
                if quantity.request_header is not None:
                    yield quantity.request_header


def compile_trusted_header(settings: Settings) -> TrustedHeader | None:
    """Compile the trusted header that names a customer, if configured."""
    trusted = settings.auth.trusted_header
    if trusted is None:
        return None
    return TrustedHeader(
        customer_header=trusted.customer,
        key_header=trusted.key,
        project_header=trusted.project,
        networks=tuple(ipaddress.ip_network(network) for network in trusted.networks),
    )


def injected_headers(upstream: UpstreamSection) -> Headers:
    """The credential and the configured headers, as each request to the upstream carries them."""
    fields = dict(upstream.headers)
    if upstream.credential is not None:
        fields[upstream.credential.header] = upstream.credential.value.get_secret_value()
    return tuple((name.encode(), value.encode()) for name, value in fields.items())


def upstream_secrets(upstream: UpstreamSection) -> tuple[bytes, ...]:
    """List the secrets that responses of the upstream must not show: the credential, and headers
    whose names suggest one."""
    named = {**upstream.headers, **upstream.query}
    values = [text for name, text in named.items() if _NAMES_A_SECRET.search(name)]
    if upstream.credential is not None:
        values.append(upstream.credential.value.get_secret_value())
    return secrets_of(values)
