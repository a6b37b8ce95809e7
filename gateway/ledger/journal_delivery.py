"""Delivers journaled records, some at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.journal_records import Record

Deliver = Callable[[Record], Awaitable[object]]
"""Delivers one record. Raises LedgerUnavailable to be asked again later; any other exception
says that this record can never be delivered."""


@dataclass(slots=True)
class Outcome:
    """What became of records that were delivered together.

    rejects: those that can never be delivered, with their reason. unavailable: places of those to be
    offered again
    """

    delivered: int = 0
    rejects: list[Record] = field(default_factory=list)
    unavailable: list[int] = field(default_factory=list)


async def deliver_all(records: Sequence[Record], deliver: Deliver) -> Outcome:
    """Deliver records concurrently."""
    results = await asyncio.gather(*(deliver(r) for r in records), return_exceptions=True)
    outcome = Outcome()
    for place, (record, result) in enumerate(zip(records, results, strict=True)):
        if isinstance(result, LedgerUnavailable):
            outcome.unavailable.append(place)
        elif isinstance(result, Exception):
            outcome.rejects.append(rejected_record(record, result))
        elif isinstance(result, BaseException):
            raise result
        else:
            outcome.delivered += 1
    return outcome


def rejected_record(record: Record, error: Exception) -> Record:
    """A record that can never be delivered, as it is set aside."""
    return {"error": f"{type(error).__name__}: {error}", **record}
