"""Sends usage to a billing system or webhook over HTTP, by a recipe.

Invariants: an item has the same id, time and bytes at every attempt. What the receiver has taken of a batch that
could not be completed is not sent again by this process; another process sends it again, and the receiver
recognises it by its id. One refused item drops out alone.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import orjson

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.exporter import signing
from gateway.exporter.sink import Batch, Failure, Sink, Written
from gateway.exporter.sinks.billing import MissingValue, Template, billed, by_unit, item_of
from gateway.exporter.sinks.http_client import Caller, gathered
from gateway.exporter.sinks.http_recipes import RECIPES
from gateway.exporter.sinks.http_recipes.base import Answer, Named
from gateway.exporter.sinks.http_recipes.custom import custom
from gateway.exporter.sinks.options_http import HttpOptions


class _Part(NamedTuple):
    """One item on its way."""

    id: str
    body: dict[str, Any]


class HttpSink(Sink):
    """Sends events to one receiver; it cannot be read back."""

    name: ClassVar[str] = "http"
    starts: ClassVar[Literal["beginning", "now"]] = "now"

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        if options.recipe == "custom":
            self._recipe = custom(options.item, options.wrap)
        else:
            self._recipe = RECIPES[options.recipe]
        age_ms = options.max_replay_age_ms
        self.max_replay_age_ms = self._recipe.max_replay_age_ms if age_ms is None else age_ms
        self._event_name = Template(options.event_name)
        self._customer = Template(options.customer)
        self._one_by_one = "unit" in self._event_name.fields or bool(options.units)
        self._most = min(options.batch_items or self._recipe.most, self._recipe.most)
        self._caller = Caller(timeout_ms=options.timeout_ms, concurrent=options.concurrent)
        self._taken: dict[str, bool] = {}
        self._refused: dict[str, str] = {}
        """What is decided of the batch under way: id → whether it was a duplicate; id → reason."""

    def __repr__(self) -> str:
        return f"HttpSink({self._options.recipe!r})"

    async def open(self) -> Mapping[int, Place]:
        """Open connections, and let the receiver check the key where it has a call for that."""
        await self._caller.open()
        if self._recipe.probe:
            url = self._options.url + self._recipe.probe
            await self._caller.probe("GET", url, self._fixed_headers())
        else:
            await self._caller.probe("OPTIONS", self._options.url, self._fixed_headers())
        return {}

    async def write(self, batch: Batch) -> Written:
        """Send what is billed of a batch, in calls of at most what the receiver takes."""
        failed: list[Failure] = []
        parts: dict[str, list[_Part]] = {}
        repeated = 0
        options = self._options
        for row in billed(batch.rows, options.kinds, test_keys=options.test_keys):
            if row.event_id in parts:
                repeated += 1
                continue
            try:
                parts[row.event_id] = self._parts(row)
            except MissingValue as error:
                failed.append(Failure(row, str(error)))
        todo = [
            part
            for each in parts.values()
            for part in each
            if part.id not in self._taken and part.id not in self._refused
        ]
        most = self._most
        await gathered(self._send(todo[at : at + most]) for at in range(0, len(todo), most))
        written = self._count(batch.rows, parts, failed, repeated)
        self._taken, self._refused = {}, {}
        return written

    async def close(self) -> None:
        """Close the connections."""
        await self._caller.close()

    def _parts(self, row: EventRow) -> list[_Part]:
        """What is sent of one event. Raises MissingValue."""
        item = item_of(row)
        items = by_unit(item, self._options.units) if self._one_by_one else [item]
        return [
            _Part(
                each.id,
                self._recipe.build(
                    Named(
                        each,
                        self._options.source,
                        self._event_name.text(each),
                        self._customer.text(each),
                    )
                ),
            )
            for each in items
        ]

    async def _send(self, parts: Sequence[_Part]) -> None:
        """One call, and more until each part is decided. Raises SinkUnavailable."""
        single = len(parts) == 1 and self._recipe.single
        bodies = [part.body for part in parts]
        content = orjson.dumps(bodies[0] if single else self._recipe.wrap(bodies))
        response = await self._caller.post(
            self._options.url + self._recipe.path, content, self._headers(parts, content)
        )
        answer = Answer(response.status_code, response.content)
        verdict = self._recipe.judge(answer, bodies)
        if verdict.refused_all is not None:
            if len(parts) == 1:
                self._refused[parts[0].id] = verdict.refused_all
                return
            half = len(parts) // 2
            await self._send(parts[:half])
            await self._send(parts[half:])
            return
        again = []
        for index, part in enumerate(parts):
            if index in verdict.refused:
                self._refused[part.id] = verdict.refused[index]
            elif index in verdict.duplicates or not verdict.undecided:
                self._taken[part.id] = index in verdict.duplicates
            else:
                again.append(part)
        if again:
            assert len(again) < len(parts), "an undecided call names at least one item"
            await self._send(again)

    def _count(
        self,
        rows: Sequence[EventRow],
        parts: Mapping[str, Sequence[_Part]],
        failed: list[Failure],
        repeated: int,
    ) -> Written:
        by_id = {row.event_id: row for row in rows}
        stored, duplicates, skipped = 0, repeated, len(rows) - repeated - len(parts) - len(failed)
        for event_id, each in parts.items():
            reasons = [self._refused[part.id] for part in each if part.id in self._refused]
            if reasons:
                failed.append(Failure(by_id[event_id], reasons[0]))
            elif not each:
                skipped += 1
            elif all(self._taken[part.id] for part in each):
                duplicates += 1
            else:
                stored += 1
        return Written(stored, duplicates, failed, skipped)

    def _fixed_headers(self) -> dict[str, str]:
        found = dict(self._options.headers)
        if self._options.key:
            found[self._recipe.key_header] = self._recipe.key_prefix + self._options.key
        return found

    def _headers(self, parts: Sequence[_Part], content: bytes) -> dict[str, str]:
        """Of one call. Its id depends on its items alone."""
        single = len(parts) == 1 and self._recipe.single
        found: dict[str, str] = {}
        if len(parts) == 1:
            call_id = parts[0].id
        else:
            ids = "\n".join(part.id for part in parts).encode()
            call_id = f"batch_{hashlib.sha256(ids).hexdigest()[:32]}"
        if self._options.signing_keys:
            keys = self._options.signing_keys
            found = signing.headers(keys, call_id, int(time.time()), content)
        elif self._recipe.single:
            found["idempotency-key"] = call_id
        found["content-type"] = single or self._recipe.content_type
        return found | self._fixed_headers()
