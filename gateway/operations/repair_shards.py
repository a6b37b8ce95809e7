"""Reopen every shard that has lost entries, restore the configured customers, and verify."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.operations.audit import Noted, record
from gateway.operations.backend import Backend
from gateway.operations.documents import verified_document
from gateway.operations.drifts import Verified
from gateway.operations.errors import NotFound
from gateway.operations.reapplying import Desk, Manner, Reopened
from gateway.operations.reopen import ledger_status, reopen
from gateway.operations.verify import Progress, verify


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did.

    not_written: why the configuration's customers could not be written into the ledger; None if they
                 were, or nothing was reopened
    """

    shards: Sequence[Reopened]
    not_written: str | None
    verified: Verified

    @property
    def clean(self) -> bool:
        """Whether all is well: every shard open, nothing lost, no drift."""
        opened = all(shard.epoch is not None for shard in self.shards)
        lost = any(shard.not_applied for shard in self.shards)
        return opened and not lost and self.verified.clean and self.not_written is None


async def repair_shards(
    backend: Backend,
    shard: int | None,
    progress: Progress,
    *,
    accept_loss: bool = False,
    reason: str | None = None,
) -> Repaired:
    """Replay from the store what shards have lost, reopen them, and verify.

    shard:       one; None for all that have lost entries
    accept_loss: reopen a shard although some of its events cannot be replayed
    May be repeated after any failure. Raises NotFound, LedgerUnavailable.
    """
    count = backend.accounts.names.shard_count
    if shard is not None and shard >= count:
        raise NotFound(f"there is no shard {shard}: the ledger has {count}")
    desk = desk_over(backend)
    reopened = []
    for each in await ledger_status(backend.outbox, backend.store):
        if shard not in (None, each.number) or each.state == "open":
            continue
        if each.state == "away" and shard is None:
            continue  # `verify` says so; the others are repaired first
        name = f"shard {each.number}"

        def done(at: int, of: int, name: str = name) -> None:
            progress(name, at, of)

        manner = Manner("accept" if accept_loss else "stop", progress=done)
        result = await reopen(desk, each.number, manner)
        if result is None:
            continue
        reopened.append(result)
        if result.epoch is not None:
            await note_reopened(backend, result, reason, accept_loss=accept_loss)
    not_written = None
    if any(each.epoch is not None for each in reopened):
        # A gate that started while the shard was shut has left its customers out.
        not_written = await backend.write_customers()
    verified = await verify(backend.audit, backend.outbox, backend.store, progress)
    return Repaired(reopened, not_written, verified)


def desk_over(backend: Backend) -> Desk:
    """What a repair works on."""
    return Desk(backend.repair, backend.audit, backend.outbox, backend.store, backend.losses)


async def note_reopened(
    backend: Backend, done: Reopened, reason: str | None, *, accept_loss: bool = False
) -> None:
    """Write into the audit log that a shard was reopened. Raises LedgerUnavailable.

    The one change whose entry comes after it: a frozen shard takes none.
    """
    after: dict[str, Any] = {"epoch": done.epoch, "applied": done.applied}
    after["accept_loss"] = accept_loss
    if done.lost is not None:
        after["lost"] = str(done.lost)
    if done.not_applied:
        after["not_applied"] = [each.event_id for each in done.not_applied]
    subject = f"shard {done.number}"
    await record(backend, Noted("ledger.reopen", subject, "", reason, None, after, done.number))


def repaired_document(repaired: Repaired) -> dict[str, Any]:
    """What a repair did, as a JSON document."""
    return {
        "shards": [
            {
                "shard": shard.number,
                "epoch": shard.epoch,
                "applied": shard.applied,
                "kept": shard.kept,
                "not_applied": {each.event_id: each.reason for each in shard.not_applied},
                "assumed": shard.assumed,
                "lost_entries": str(shard.lost) if shard.lost else None,
                "uncounted": sorted(shard.uncounted),
            }
            for shard in repaired.shards
        ],
        "not_brought": repaired.not_written,
        "verified": verified_document(repaired.verified),
    }
