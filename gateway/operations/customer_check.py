"""Whether gates can serve a customer's record, and honour the options of a key: asked before they are written."""

import re
from collections.abc import Iterable
from typing import Final

from gateway.domain.customers import CustomerRecord
from gateway.domain.key_terms import KeyTerms, parse_network
from gateway.domain.suggestions import suggest
from gateway.operations.backend import Backend
from gateway.operations.documents import timestamp
from gateway.operations.errors import Conflict
from gateway.operations.wallet_terms import WalletTerms

MAX_TEXT_CHARS: Final = 256
MAX_ENTRIES: Final = 50
"""Tags, external ids, projects, prices or limits of one customer."""

MAX_NETWORKS: Final = 50
NAME_CHARS_MOST: Final = 200

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


async def check_record(backend: Backend, record: CustomerRecord) -> WalletTerms:
    """What a record gives its wallet. Raises Conflict for a record that no gate could serve."""
    configured = backend.configured
    problem = next(iter(_problems(record)), None)
    if problem is None and record.plan is not None and record.plan not in configured.plans:
        problem = f"there is no plan {record.plan} in the configuration"
    named = {*(record.models or ()), *record.prices}
    named.update(limit.model for limit in record.limits if limit.model is not None)
    unknown = sorted(named.difference(configured.models))
    if problem is None and unknown:
        problem = f"there is no model {unknown[0]} in the configuration"
    if problem is None and record.prices:
        kept = await backend.accounts.books.prices(record.prices.values())
        missing = sorted(set(record.prices.values()) - kept.keys())
        if missing:
            problem = f"the ledger has no price {missing[0]}"
    if problem is not None:
        raise Conflict(problem)
    return configured.terms(record)


def _problems(record: CustomerRecord) -> Iterable[str]:
    for what, customer_text in (("id", record.customer_id), *_ids("project", record.projects)):
        if not _ID.fullmatch(customer_text):
            yield (
                f"{customer_text!r} cannot be the {what} of a customer: use letters, digits and"
                " . _ @ - (at most 128, a letter or digit first)"
            )
    texts = {
        "name": record.name,
        "email": record.email,
        **{f"tag {name}": value for name, value in record.tags.items()},
        **{f"external id {name}": value for name, value in record.external_ids.items()},
        **{f"name of the tag {name[:20]!r}": name for name in (*record.tags, *record.external_ids)},
    }
    for what, text in texts.items():
        if text is not None and not (0 < len(text) <= MAX_TEXT_CHARS and text.isprintable()):
            yield f"the {what} must have 1 to {MAX_TEXT_CHARS} printable characters"
    for system in record.external_ids:
        if ":" in system:
            yield f"the external id's system {system!r} must not have a colon"
    for what in ("tags", "external_ids", "projects", "prices", "limits"):
        if len(getattr(record, what)) > MAX_ENTRIES:
            yield f"a customer has at most {MAX_ENTRIES} {what}"
    if record.billing_day is not None and not 1 <= record.billing_day <= 31:
        yield f"the billing day must be 1 to 31, got {record.billing_day}"
    for project, limits in record.projects.items():
        if any(limit.scope != "project" for limit in limits):
            yield f"limits of the project {project} must have the scope `project`"


def _ids(what: str, names: Iterable[str]) -> list[tuple[str, str]]:
    return [(what, name) for name in names]


async def check_key_terms(backend: Backend, terms: KeyTerms) -> None:
    """Raise Conflict for options that no gate could honour."""
    for network in terms.networks:
        try:
            parse_network(network)
        except ValueError as error:
            raise Conflict(f"{network!r} is not a network: {error}. Write 10.0.0.0/8") from error
    unknown = sorted((terms.models or frozenset()).difference(backend.configured.models))
    if unknown:
        hint = suggest(unknown[0], backend.configured.models)
        raise Conflict(f"there is no model {unknown[0]} in the configuration. {hint}")
    if any(limit.scope != "key" for limit in terms.limits):
        raise Conflict("limits of a key must have the scope `key`")
    if len(terms.networks) > MAX_NETWORKS:
        raise Conflict(f"a key has at most {MAX_NETWORKS} networks")
    if terms.name is not None and not (
        0 < len(terms.name) <= NAME_CHARS_MOST and terms.name.isprintable()
    ):
        raise Conflict(f"the name must have 1 to {NAME_CHARS_MOST} printable characters")
    if terms.expires_at_ms is not None and terms.expires_at_ms <= await backend.accounts.now_ms():
        raise Conflict(f"the key would have expired already: {timestamp(terms.expires_at_ms)}")
