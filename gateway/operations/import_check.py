"""What an import would do: which rows are new, which are there already, which cannot be imported.

Reads the ledger in pages and changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.customers import CustomerRecord
from gateway.ledger.codec.operations import NewGrant
from gateway.ledger.codec.stored_keys import StoredKey
from gateway.operations.backend import Backend
from gateway.operations.customer_check import check_record
from gateway.operations.errors import Conflict
from gateway.operations.import_file import ImportFile, ImportRow, Rejected, reject
from gateway.operations.wallet_terms import WalletTerms

CHECKED_AT_ONCE: Final = 500
Report = Callable[[str, int, int], None]
"""Called with what is done: name, count, total."""

_OWN_FIELDS: Final = ("plan", "name", "email", "external_ids")
"""Fields of a record that a file has."""


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row that can be imported, and what of it is there already.

    record: to keep; where there is one already, that one
    grant:  of the balance; None for a balance of 0
    keys:   to add
    """

    row: ImportRow
    record: CustomerRecord
    terms: WalletTerms
    grant: NewGrant | None
    keys: tuple[StoredKey, ...]
    recorded: bool = False
    granted: bool = False

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        complete = self.record.terms_digest != ""
        return self.recorded and complete and (self.granted or not self.grant) and not self.keys


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import would do."""

    columns: tuple[str, ...]
    rows: tuple[PlannedRow, ...]
    rejected: tuple[Rejected, ...]

    @property
    def to_do(self) -> list[PlannedRow]:
        """Rows of which something is missing in the ledger."""
        return [each for each in self.rows if not each.done]

    @property
    def balance_nano(self) -> int:
        """The balances of all rows that can be imported or are there already."""
        return sum(each.row.balance_nano for each in self.rows)

    @property
    def plans_nano(self) -> int:
        """What plans give the customers of rows to do, besides the balances of the file."""
        return sum(
            sum(grant.amount_nano for _, grant in each.terms.grants)
            + sum(allowance.amount_nano for allowance in each.terms.allowances)
            for each in self.to_do
        )


def import_operation_id(customer_id: str) -> str:
    """The operation id of an imported balance: it is granted once per customer, permanently."""
    return f"import:{customer_id}"


async def plan_import(backend: Backend, file: ImportFile, report: Report) -> ImportPlan:
    """Compare a file with the configuration and the ledger. Raises LedgerUnavailable."""
    planned: list[PlannedRow] = []
    rejected = list(file.rejected)
    now_ms = await backend.accounts.now_ms()
    for start in range(0, len(file.rows), CHECKED_AT_ONCE):
        for each in await _plan_page(backend, file.rows[start : start + CHECKED_AT_ONCE], now_ms):
            if isinstance(each, PlannedRow):
                planned.append(each)
            else:
                rejected.append(each)
        report("checked", min(start + CHECKED_AT_ONCE, len(file.rows)), len(file.rows))
    return ImportPlan(
        file.columns, tuple(planned), tuple(sorted(rejected, key=lambda each: each.line))
    )


async def _plan_page(
    backend: Backend, rows: Sequence[ImportRow], now_ms: int
) -> list[PlannedRow | Rejected]:
    bulk = backend.accounts.bulk
    records = await backend.accounts.customers.read_many(row.customer_id for row in rows)
    keys = await bulk.keys_by_digest([digest for row in rows for digest in row.key_digests])
    owners = await bulk.external_owners([pair for row in rows for pair in row.external_ids.items()])
    given = await backend.accounts.wallets.given_terms(
        [(row.customer_id, import_operation_id(row.customer_id)) for row in rows]
    )
    configured_keys = {key.digest: key.customer_id for key in backend.configured.api_keys()}
    found: list[PlannedRow | Rejected] = []
    for row in rows:
        name = row.customer_id
        holders = {
            digest: keys[digest].customer_id if digest in keys else configured_keys.get(digest)
            for digest in row.key_digests
        }
        try:
            _check_others(row, holders, owners)
            planned = await _planned(backend, row, records.get(name), now_ms)
            packed = given.get((name, import_operation_id(name)))
            _check_grant(planned, packed)
            new = tuple(key for key in planned.keys if key.digest not in keys)
            found.append(replace(planned, granted=packed is not None, keys=new))
        except Conflict as conflict:
            found.append(reject(row, str(conflict)))
    return found


def _check_others(row: ImportRow, holders: dict[str, str | None], owners: dict[str, str]) -> None:
    """Raise Conflict for a key or an external id of somebody else."""
    for digest, holder in holders.items():
        if holder not in (None, row.customer_id):
            raise Conflict(f"the key {digest[:16]}… belongs to {holder} already")
    for pair in row.external_ids.items():
        owner = owners.get(":".join(pair), row.customer_id)
        if owner != row.customer_id:
            raise Conflict(f"{owner} has the external id {':'.join(pair)} already")


async def _planned(
    backend: Backend, row: ImportRow, present: CustomerRecord | None, now_ms: int
) -> PlannedRow:
    name = row.customer_id
    if name in backend.configured.customer_ids:
        raise Conflict(
            f"there is a customer {name} in the configuration already. Leave the line out, and add the"
            " balance with `creditgate wallet grant`"
        )
    record = CustomerRecord(
        name, now_ms, row.plan, name=row.name, email=row.email, external_ids=row.external_ids
    )
    terms = await check_record(backend, record)
    if present is not None:
        _check_present(record, present)
        terms = await check_record(backend, present)
    grant = NewGrant(row.balance_nano, row.category, expires_at_ms=row.expires_at_ms)
    keys = (StoredKey(digest, f"k_{digest[:16]}", name, None, now_ms) for digest in row.key_digests)
    return PlannedRow(
        row,
        present or record,
        terms,
        grant if row.balance_nano else None,
        tuple(keys),
        recorded=present is not None,
    )


def _check_present(wanted: CustomerRecord, present: CustomerRecord) -> None:
    """Raise Conflict where a customer of this id is another one, or was changed."""
    name = wanted.customer_id
    if present.status == "deleted":
        raise Conflict(f"the customer {name} was deleted, and ids are never used again")
    other = [each for each in _OWN_FIELDS if getattr(wanted, each) != getattr(present, each)]
    if other:
        raise Conflict(
            f"there is a customer {name} already, with another {' and '.join(other)}. Change it with"
            " `creditgate customer update`, or correct the line"
        )


def _check_grant(planned: PlannedRow, packed: bytes | None) -> None:
    """Raise Conflict where another balance was imported."""
    wanted = None if planned.grant is None else planned.grant.packed()
    if packed is not None and packed != wanted:
        raise Conflict(
            f"a balance of {planned.row.customer_id} was imported already, with another amount,"
            " category or expiry. Correct the wallet with `creditgate adjust`"
        )
