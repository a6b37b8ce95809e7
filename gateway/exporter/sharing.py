"""What an exporter shares its work with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.exporter.follower import Follower
from gateway.exporter.interface import LeaseSource
from gateway.ledger.refusals import RefusalStream


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a pump shares its work with.

    leases:    where shards are shared with other exporters; None: this one has all
    name:      of the required store as configured
    followers: of the optional sinks
    refusals:  counted into the sink, which must be a store then; None: not counted
    servers:   changes whenever a shard may be read from another server than before
    """

    leases: LeaseSource | None = None
    name: str = "events"
    followers: Sequence[Follower] = ()
    refusals: RefusalStream | None = None
    servers: Callable[[], object] = lambda: None
