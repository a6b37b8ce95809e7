"""What an API key may be limited to, besides the limits of its customer."""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from gateway.domain.limits import Limit

Network = IPv4Network | IPv6Network
_NETWORKS_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """Options of a key. Times in Unix ms.

    name:          for people
    expires_at_ms: from then on it is refused; None is never
    models:        restricts the models of the customer; None is all of them
    networks:      CIDRs that it may be used from; empty is anywhere
    test:          its requests are charged to the customer's test wallet, with `livemode: false`
    last_four:     the last characters of the key; empty when they are not known
    """

    name: str | None = None
    expires_at_ms: int | None = None
    models: frozenset[str] | None = None
    limits: tuple[Limit, ...] = ()
    networks: tuple[str, ...] = ()
    test: bool = False
    last_four: str = ""


@dataclass(frozen=True, slots=True)
class Restrictions:
    """What every request with a key is checked for; keys without any have none of these."""

    expires_at_ms: int | None = None
    networks: tuple[Network, ...] = ()

    def permits(self, remote: str) -> bool:
        """Whether the key may be used from this address."""
        if not self.networks:
            return True
        address = parse_address(remote)
        return address is not None and any(address in network for network in self.networks)


def restrictions_of(terms: KeyTerms) -> Restrictions | None:
    """What has to be checked per request; None for most keys. Raises ValueError for a bad network."""
    if terms.expires_at_ms is None and not terms.networks:
        return None
    return Restrictions(terms.expires_at_ms, tuple(map(parse_network, terms.networks)))


@lru_cache(_NETWORKS_KEPT)
def parse_network(text: str) -> Network:
    """A CIDR, or one address. Raises ValueError."""
    return ip_network(text)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """A peer's address; an IPv4 peer of a socket that takes both is IPv4. None if it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
