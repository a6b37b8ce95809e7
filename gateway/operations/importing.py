"""`import`: moves customers with their balances and keys into the ledger, many at once.

Each step is done once per customer whatever happens: a record is kept if there is none, a balance has a
permanent operation id, a key is added if it is not there. So an import that was interrupted is completed
by repeating it, and what is there already is left alone.

A customer's record comes first, without the digest of its terms; the digest is entered when its wallet
is complete. Its keys come last: nobody can use a wallet that is not filled yet.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.domain.money import format_amount
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.ledger.customers import CustomerChanged
from gateway.operations.audit import Noted, audited, signed
from gateway.operations.backend import Backend
from gateway.operations.errors import OutcomeUnknown
from gateway.operations.import_check import (
    ImportPlan,
    PlannedRow,
    Report,
    import_operation_id,
)
from gateway.operations.import_file import ImportRow, Rejected, reject
from gateway.operations.wallet_terms import Present, TermsRefused, TermsWriter, start_operation_id

AT_ONCE: Final = 200
"""Customers that are written at the same time."""

CONNECTIONS: Final = 6
"""Customers of a page whose wallets or records are changed at the same time: each takes a connection of
the pool, where others may wait for one for a second at most."""

GRANT_NAME: Final = "imported balance"
REASON: Final = "import"


@dataclass(frozen=True, slots=True)
class ImportSource:
    """What the audit log says of the file. reason: None for none"""

    file_name: str
    sha256: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, or would do.

    new, present:  customers that were written, and that were complete before
    balance_nano:  of the file's lines that were not rejected
    credited_nano: of these, as the ledger has them; None before an import
    plans_nano:    what plans give the new customers besides
    """

    applied: bool
    columns: tuple[str, ...]
    new: int
    present: int
    keys: int
    balance_nano: int
    credited_nano: int | None
    plans_nano: int
    rejected: tuple[Rejected, ...]

    @property
    def matched(self) -> bool:
        """Whether the ledger has exactly the balances of the lines that were not rejected."""
        return self.credited_nano in (None, self.balance_nano)

    @property
    def clean(self) -> bool:
        """Whether every line was, or can be, imported."""
        return self.matched and not self.rejected


def previewed(plan: ImportPlan) -> Imported:
    """What applying a plan would do."""
    to_do = plan.to_do
    return Imported(
        applied=False,
        columns=plan.columns,
        new=len(to_do),
        present=len(plan.rows) - len(to_do),
        keys=sum(len(each.keys) for each in to_do),
        balance_nano=plan.balance_nano,
        credited_nano=None,
        plans_nano=plan.plans_nano,
        rejected=plan.rejected,
    )


async def apply_import(
    backend: Backend, plan: ImportPlan, source: ImportSource, report: Report
) -> Imported:
    """Write what is missing, and read the balances back.

    Raises LedgerUnavailable before the first change, OutcomeUnknown afterwards.
    """
    expected, to_do = previewed(plan), plan.to_do
    rejected: list[Rejected] = []
    if to_do:
        noted = Noted(
            "customer.import",
            source.file_name,
            reason=source.reason,
            after={
                "customers": expected.new,
                "balances": format_amount(sum(each.row.balance_nano for each in to_do)),
                "rejected": len(plan.rejected),
                "sha256": source.sha256,
            },
        )
        async with audited(backend, noted):
            rejected = await _write_all(backend, to_do, source.reason or REASON, report)
    refused = Counter(each.line for each in rejected)
    rows = [each for each in plan.rows if each.row.line not in refused]
    return replace(
        expected,
        applied=True,
        new=expected.new - len(refused),
        balance_nano=sum(each.row.balance_nano for each in rows),
        credited_nano=await _credited_nano(backend, rows),
        rejected=tuple(sorted((*plan.rejected, *rejected), key=lambda each: each.line)),
    )


def imported_document(result: Imported) -> dict[str, Any]:
    """The result as a JSON document."""
    credited = result.credited_nano
    lost = [each.balance_nano for each in result.rejected]
    return {
        "applied": result.applied,
        "customers": result.new,
        "present": result.present,
        "keys": result.keys,
        "balances": format_amount(result.balance_nano),
        "credited": None if credited is None else format_amount(credited),
        "matched": result.matched,
        "plan_grants": format_amount(result.plans_nano),
        "rejected": len(result.rejected),
        "rejected_balances": format_amount(sum(nano or 0 for nano in lost)),
        "unreadable_balances": lost.count(None),
        "rejects": [{"line": each.line, "reason": each.reason} for each in result.rejected],
    }


async def _write_all(
    backend: Backend, rows: Sequence[PlannedRow], reason: str, report: Report
) -> list[Rejected]:
    rejected: list[Rejected] = []
    for start in range(0, len(rows), AT_ONCE):
        page = rows[start : start + AT_ONCE]
        try:
            rejected += await _write_page(backend, page, reason)
        except LedgerUnavailable as error:
            raise OutcomeUnknown(
                f"{error}. {start} of {len(rows)} customers are imported, and some of the next"
                f" {len(page)}. Run the import again: it completes them, and nothing is credited twice"
            ) from error
        report("imported", start + len(page), len(rows))
    return rejected


async def _write_page(backend: Backend, page: Sequence[PlannedRow], reason: str) -> list[Rejected]:
    bulk = backend.accounts.bulk
    refused = await bulk.create([each.record for each in page if not each.recorded])
    await bulk.enter([each.record for each in page if each.recorded])
    rejected = [
        reject(each.row, refused[each.record.customer_id])
        for each in page
        if each.record.customer_id in refused
    ]
    kept = [each for each in page if each.record.customer_id not in refused]
    present = await _present(backend, kept)
    written = await _few_at_once(
        lambda each: _fill(backend, each, present[each.record.customer_id], reason), kept
    )
    _raise_first([each for each in written if not isinstance(each, _RowRefused)])
    for each, failure in zip(kept, written, strict=True):
        if failure is not None:
            rejected.append(reject(each.row, str(failure)))
    filled = [each for each, failure in zip(kept, written, strict=True) if failure is None]
    await _complete(backend, filled)
    return rejected + await _add_keys(backend, filled)


async def _add_keys(backend: Backend, rows: Sequence[PlannedRow]) -> list[Rejected]:
    """Add the keys; rejects rows whose key was given to somebody else after the plan was made."""
    bulk = backend.accounts.bulk
    taken = await bulk.add_keys([key for each in rows for key in each.keys])
    found = await bulk.keys_by_digest(sorted(taken))
    return [
        _without_key(each.row, found[key.digest].customer_id)
        for each in rows
        for key in each.keys
        if key.digest in found and found[key.digest].customer_id != each.record.customer_id
    ]


class _RowRefused(Exception):
    """The ledger refused a part of a row; the message says which and why."""


async def _present(backend: Backend, rows: Sequence[PlannedRow]) -> dict[str, Present]:
    """What the wallets have of their terms, in a few round trips."""
    reader = backend.accounts.wallets
    wallets = await reader.read([each.record.customer_id for each in rows])
    operations = [
        (each.record.customer_id, start_operation_id(each.record.customer_id, name))
        for each in rows
        for name, _ in each.terms.grants
    ]
    given = await reader.given_terms(operations)
    names = {each.record.customer_id: set[str]() for each in rows}
    for customer_id, op_id in given:
        names[customer_id].add(op_id)
    return {name: Present(wallets.get(name), frozenset(names[name])) for name in names}


async def _fill(backend: Backend, planned: PlannedRow, present: Present, reason: str) -> None:
    """Write a wallet's terms and the balance, unless they are there. Raises _RowRefused, LedgerUnavailable."""
    record, customer_id = planned.record, planned.record.customer_id
    writer = TermsWriter(backend.wallets, backend.accounts.wallets, str(backend.actor), reason)
    try:
        if record.terms_digest == "":
            await writer.apply(customer_id, planned.terms, present)
        if planned.grant is not None and not planned.granted:
            facts = signed(backend, "grant.create", reason, name=GRANT_NAME)
            op_id = import_operation_id(customer_id)
            await backend.wallets.grant(customer_id, op_id, planned.grant, facts)
    except (TermsRefused, LedgerRefusal) as refused:
        raise _RowRefused(
            f"the customer was created, but its wallet is not complete: {refused}. Import the line"
            " again when this is mended"
        ) from refused


async def _complete(backend: Backend, rows: Sequence[PlannedRow]) -> None:
    """Enter the digests of terms that wallets have now."""

    async def complete(planned: PlannedRow) -> None:
        after = replace(planned.record, terms_digest=planned.terms.digest())
        # Whoever changed it has written the terms.
        with suppress(CustomerChanged):
            await backend.accounts.customers.replace(planned.record, after)

    due = [each for each in rows if each.record.terms_digest == ""]
    _raise_first(await _few_at_once(complete, due))


async def _few_at_once(
    work: Callable[[PlannedRow], Awaitable[None]], rows: Sequence[PlannedRow]
) -> list[BaseException | None]:
    """Do the work for each row; how each ended."""
    places = asyncio.Semaphore(CONNECTIONS)

    async def one(row: PlannedRow) -> None:
        async with places:
            await work(row)

    return await asyncio.gather(*map(one, rows), return_exceptions=True)


def _raise_first(outcomes: Sequence[BaseException | None]) -> None:
    """All have ended: a caller that goes on after a failure finds nothing running."""
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


def _without_key(row: ImportRow, holder: str) -> Rejected:
    reason = f"the customer was imported, without its key: {holder} has it. Create another one"
    return Rejected(row.line, reason, 0, row.cells)


async def _credited_nano(backend: Backend, rows: Sequence[PlannedRow]) -> int:
    """The balances that the ledger has received for these rows."""
    operations = [
        (each.row.customer_id, import_operation_id(each.row.customer_id)) for each in rows
    ]
    given = await backend.accounts.wallets.given_terms(operations)
    wanted = {each.row.customer_id: each for each in rows}
    return sum(
        each.row.balance_nano
        for (name, _), packed in given.items()
        if (each := wanted[name]).grant is not None and packed == each.grant.packed()
    )
