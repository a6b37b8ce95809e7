"""The rows of a price version, kept so that a charge can be explained: a field of `{cg}:prices`."""

from msgpack import packb, unpackb

from gateway.domain.pricing import PriceTable, Rate, unpack_rates, unpack_rows


def pack_rows(table: PriceTable) -> bytes:
    """The rows of its rates and of its costs."""
    packed: bytes = packb([table.rows, table.cost_rows])
    return packed


def read_rows(packed: bytes) -> tuple[dict[str, Rate], dict[str, int]]:
    """Rates, and costs in pico-credits, by unit."""
    rows, cost_rows = unpackb(packed)
    return unpack_rates(rows), unpack_rows(cost_rows)
