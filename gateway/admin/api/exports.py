"""Raw events as a file, written while they are read."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import chain, islice
from typing import Annotated, Final, Literal

from fastapi import Depends, Query
from starlette.responses import Response, StreamingResponse

from gateway.admin.api.models import Period, WalletId
from gateway.admin.api.routing import api_router
from gateway.admin.auth.guard import Session, require
from gateway.domain.stores import EventStore, RowFilter
from gateway.operations.event_files import EventFormat, write_events

router = api_router("Exports")

PIECE_BYTES: Final = 65_536
_TYPES: Final = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}


class ExportQuery(Period):
    """Which events are wanted."""

    format: Literal["jsonl", "csv"] = "jsonl"
    customer_id: WalletId | None = None


@router.get(
    "/exports/events",
    summary="Download events, with the columns of every store",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One event a line.",
            "content": {
                "application/jsonl": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        }
    },
)
async def export_events(
    query: Annotated[ExportQuery, Query()],
    session: Annotated[Session, Depends(require("exports.read"))],
) -> Response:
    wanted = RowFilter(query.since, query.until, query.customer_id)
    file = EventFile(session.backend.store, wanted, query.format)
    first = await file.begin()
    headers = {"content-disposition": f'attachment; filename="events.{query.format}"'}
    return StreamingResponse(file.pieces(first), headers=headers, media_type=_TYPES[query.format])


class EventFile:
    """A file that one thread writes into a pipe while the answer reads it."""

    def __init__(self, store: EventStore, wanted: RowFilter, form: EventFormat) -> None:
        self._store, self._wanted, self._form = store, wanted, form

    async def begin(self) -> bytes:
        """Begin to write; returns the first piece. Raises StoreMissing."""
        self._readable, writable = os.pipe()
        self._writing = asyncio.create_task(asyncio.to_thread(self._write, writable))
        try:
            first = await self._read()
            if not first:
                await self._writing
        except BaseException:
            os.close(self._readable)
            raise
        return first

    async def pieces(self, first: bytes) -> AsyncIterator[bytes]:
        """The file. A client that leaves closes the pipe, and so ends the writer."""
        piece = first
        try:
            while piece:
                yield piece
                piece = await self._read()
            await self._writing  # what it raises must not look like the file's end
        finally:
            os.close(self._readable)

    async def _read(self) -> bytes:
        return await asyncio.to_thread(os.read, self._readable, PIECE_BYTES)

    def _write(self, writable: int) -> None:
        with suppress(BrokenPipeError), os.fdopen(writable, "wb") as file:
            rows = self._store.rows(self._wanted)
            first = list(islice(rows, 1))  # before anything is written, for a store that is away
            write_events(chain(first, rows), file, self._form)
