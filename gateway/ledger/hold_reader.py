"""Reservations and their deadlines, read off the hot path; no balance moves here."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis

from gateway.domain.reservation import Account
from gateway.ledger.client import clock
from gateway.ledger.client.cluster.client import is_cluster
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.reading import execute_reached, get_each, pages
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.reservation_records import (
    DueReservation,
    Ended,
    Reservation,
    read_reservation,
)


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A pending reservation and where it lies."""

    shard: int
    reservation_id: str
    reservation: Reservation


class HoldReader:
    """The reservations of one ledger, as values. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._names = names

    async def open_holds(self, customer_id: str | None = None) -> list[OpenHold]:
        """Pending reservations, of one customer or of all, soonest deadline first."""
        only = range(self._names.shard_count)
        shards = only if customer_id is None else [self._names.shard_of(customer_id)]
        holds = []
        for shard in shards:
            with unavailable():
                raw = await self._client.zrange(self._names.due(shard), 0, -1)
            for page in pages([reservation_id.decode() for reservation_id in raw]):
                holds += [
                    OpenHold(shard, reservation_id, record)
                    for reservation_id, record in await self._read(shard, page)
                    if isinstance(record, Reservation) and customer_id in (None, record.customer_id)
                ]
        return sorted(holds, key=lambda hold: hold.reservation.deadline_ms)

    async def reservation(
        self, customer_id: str, reservation_id: str
    ) -> Reservation | Ended | None:
        """A reservation or its tombstone; None when the ledger has neither (any more)."""
        shard = self._names.shard_of(customer_id)
        ((_, record),) = await self._read(shard, [reservation_id])
        return record

    async def due(
        self,
        *,
        limit: int = 500,
        skip: Container[int] = (),
        away: Callable[[int], None] = lambda _: None,
    ) -> list[DueReservation]:
        """Holds whose deadline has passed by the ledger's clock, at most `limit` in all.

        skip: shards that are not looked at
        away: called with each shard that cannot be read because its node of a cluster is away

        One that has no record any more names no customer; `Reservations.expire` strikes it off.
        """
        now_ms = await clock.now_ms(self._client)
        async with self._client.pipeline(transaction=False) as pipe:
            shards = [shard for shard in range(self._names.shard_count) if shard not in skip]
            for shard in shards:
                pipe.zrangebyscore(self._names.due(shard), "-inf", now_ms, start=0, num=limit)
            by_shard = await execute_reached(pipe)
        due: list[DueReservation] = []
        for shard, raw in zip(shards, by_shard, strict=True):
            if isinstance(raw, LedgerUnavailable):
                away(shard)
                continue
            ids = [reservation_id.decode() for reservation_id in raw[: limit - len(due)]]
            if not ids:
                continue
            try:
                records = await self._read(shard, ids)
            except LedgerUnavailable:
                if not is_cluster(self._client):
                    raise
                away(shard)
                continue
            for reservation_id, record in records:
                if isinstance(record, Ended):
                    continue  # settled since the deadlines were read
                account = Account("", "", shard, account_rev=0)
                if record is not None:
                    account = replace(
                        account,
                        customer_id=record.customer_id,
                        key_id=record.key_id,
                        project_id=record.project_id,
                    )
                due.append(DueReservation(shard, reservation_id, account))
        return due

    async def _read(
        self, shard: int, ids: Sequence[str]
    ) -> list[tuple[str, Reservation | Ended | None]]:
        keys = [self._names.reservation(shard, name) for name in ids]
        records = await get_each(self._client, keys)
        return [
            (name, read_reservation(raw) if raw else None)
            for name, raw in zip(ids, records, strict=True)
        ]
