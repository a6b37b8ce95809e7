"""From a configuration to its sinks, and to the store that is read back."""

from gateway.domain.stores import StoreAccess
from gateway.exporter.signal_schedule import SignalSchedule
from gateway.exporter.sinks.registry import build_access, build_schedule
from gateway.settings import Settings


def store_access(settings: Settings) -> StoreAccess:
    """How to read the required store. Raises DriverMissing."""
    return build_access(settings.required_store())


def signal_schedule(settings: Settings) -> SignalSchedule:
    """Where the signals wait that are sent as webhooks: in the required store. Raises DriverMissing."""
    return build_schedule(settings.required_store())
