"""The rows of every price version that was ever charged by, under their digest.

| key | type | holds |
|---|---|---|
| `{cg}:prices` | hash | price_version → msgpack: rows of rates and costs; set once, never changed |
"""

from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis

from gateway.domain.pricing import PriceTable, Rate
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.price_rows import pack_rows, read_rows


class PricesChanged(Exception):
    """A price version is kept with other rows. Versions are digests of their rows, so one of the
    two was tampered with."""


class PriceVersions:
    """The price versions of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._key = names.common("prices")

    async def put(self, tables: Iterable[PriceTable]) -> None:
        """Store each version's rows permanently. Raises PricesChanged."""
        by_version = {table.price_version: pack_rows(table) for table in tables}
        if not by_version:
            return
        async with self._client.pipeline(transaction=False) as pipe:
            for version, packed in by_version.items():
                pipe.hsetnx(self._key, version, packed)
            pipe.hmget(self._key, list(by_version))
            with unavailable():
                *_, kept = await pipe.execute()
        for (version, packed), there in zip(by_version.items(), kept, strict=True):
            if there != packed:
                raise PricesChanged(f"price version {version} is kept with other rows")

    async def changed(self, tables: Iterable[PriceTable]) -> list[str]:
        """Versions of these that are kept with other rows; changes nothing."""
        by_version = {table.price_version: pack_rows(table) for table in tables}
        if not by_version:
            return []
        with unavailable():
            kept = await self._client.hmget(self._key, list(by_version))
        pairs = zip(by_version.items(), kept, strict=True)
        return [version for (version, packed), there in pairs if there not in (None, packed)]

    async def find(self, price_version: str) -> tuple[dict[str, Rate], dict[str, int]] | None:
        """Rates, and costs in pico-credits, of a version by unit; None when it is not kept."""
        with unavailable():
            raw = await self._client.hget(self._key, price_version)
        return None if raw is None else read_rows(raw)
