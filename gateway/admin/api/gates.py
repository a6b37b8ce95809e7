"""Gates, the ledger behind them, and the delivery of events."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic import Field

from gateway.admin.api.models import ListOf, Model, Moment, Paging
from gateway.admin.api.routing import api_router
from gateway.admin.auth.guard import Session, require
from gateway.operations.export_status import export_status, status_document
from gateway.operations.gates import gate_document, list_gates
from gateway.operations.shards import report_document, report_ledger

router = api_router("Gates")

_SAMPLE_S = 0.25


class Gate(Model):
    """A gate as it reported last."""

    object: Literal["gate"] = "gate"
    id: str
    status: Literal["ready", "not ready", "degraded", "gone"]
    version: str
    address: str | None
    admin_address: str | None
    started_at: Moment
    reported_at: Moment
    workers: int
    workers_ready: int
    why_not_ready: list[str]
    degraded: list[str]
    notices: list[str]
    requests_in_flight: int
    holds_open: int
    outbox_lag_events: int


class ShutShard(Model):
    """A shard whose customers are refused until a repair."""

    shard: int
    state: str
    last: str
    stored: str
    seen: Annotated[
        str | None, Field(description="The highest entry that any gate has seen, where known.")
    ]
    lost: int


class LostEntries(Model):
    """Entries of one shard that gates had seen, and that a repair found nowhere."""

    shard: int
    entries: Annotated[str, Field(description="First and last: `epoch-seq … epoch-seq`.")]
    epoch: Annotated[int, Field(description="The epoch that began with the repair.")]
    found_at: Moment


class ShutWallet(Model):
    """A wallet that a repair has frozen, because it could not restore it."""

    customer_id: str
    shard: int
    event_id: Annotated[
        str | None,
        Field(description="The event that cannot be replayed; null: it differs from its events."),
    ]
    reason: str


class AwayShards(Model):
    """Shards of a node that cannot be asked, and why not."""

    reason: str
    shards: list[int]


class Ledger(Model):
    """The ledger's condition."""

    object: Literal["ledger"] = "ledger"
    server: Annotated[str | None, Field(description="What is wrong with its server, if anything.")]
    nodes: Annotated[
        dict[str, str],
        Field(
            description="Nodes of a cluster that answer and cannot serve, while others do, and why."
        ),
    ]
    shards: int
    away: Annotated[
        list[AwayShards],
        Field(description="Shards of which nothing is known, because their node cannot be asked."),
    ]
    shut: list[ShutShard]
    lost_entries: Annotated[
        list[LostEntries],
        Field(description="Entries that a repair found nowhere, the last time for each shard."),
    ]
    shut_wallets: Annotated[
        list[ShutWallet],
        Field(description="Wallets frozen by repairs that could not restore them; thaw to open."),
    ]


class Exporter(Model):
    """A process that delivers events."""

    name: str
    shards: int
    expires_in_ms: int


class Sink(Model):
    """Where events are delivered to."""

    name: str
    required: bool
    lag_events: int
    dead_letters: int


class Delivery(Model):
    """How the delivery of events is."""

    object: Literal["delivery"] = "delivery"
    required_store: str | None
    store_unreadable: str | None
    oldest_undelivered_s: float | None
    undelivered_in_fullest_shard: int
    full_in_hours: float | None
    exporters: list[Exporter]
    sinks: list[Sink]


@router.get("/gates", summary="List gates that have reported in the last hour")
async def list_all_gates(
    query: Annotated[Paging, Query()],
    session: Annotated[Session, Depends(require("gates.read"))],
) -> ListOf[Gate]:
    found = await list_gates(session.backend)
    documents: list[dict[str, Any]] = [gate_document(each, found.now_ms) for each in found.reports]
    gates = [Gate(**each, id=each["gate"]) for each in documents]
    return ListOf[Gate].page(gates, query, lambda each: each.id)


@router.get("/ledger", summary="Retrieve the ledger's condition")
async def retrieve_ledger(
    session: Annotated[Session, Depends(require("gates.read"))],
) -> Ledger:
    return Ledger(**report_document(await report_ledger(session.backend)))


@router.get("/delivery", summary="Retrieve how the delivery of events is")
async def retrieve_delivery(
    session: Annotated[Session, Depends(require("gates.read"))],
) -> Delivery:
    backend = session.backend
    status = await export_status(backend, _SAMPLE_S)
    return Delivery(**status_document(status, await backend.ledger_time_ms()))
