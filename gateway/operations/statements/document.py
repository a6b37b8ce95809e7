"""A statement as a JSON document: what is shown, kept when the period is closed, and begun from later.

Amounts are decimal strings of credits, times RFC 3339 in UTC. The document of a closed statement is kept as
text, and its SHA-256 is that of the text's bytes.
"""

import datetime as dt
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from gateway.domain.billing_periods import billing_period
from gateway.domain.delivery import Place
from gateway.domain.money import format_amount, format_rate, parse_amount
from gateway.domain.pricing import Rate
from gateway.domain.usage import TOKEN_UNITS
from gateway.domain.wallet_history import (
    AllowanceTerms,
    LastEvent,
    PastGrant,
    WalletHistory,
)
from gateway.operations.documents import timestamp
from gateway.operations.statements.lines import UsageLine
from gateway.operations.statements.statement import (
    PARTS,
    Entry,
    GrantLine,
    Opening,
    Statement,
)

STATEMENT_VERSION: Final = 1
"""Changes when a field's meaning changes; a new field does not change it."""
TOKENS_PER_RATE: Final = 1_000_000

Document = dict[str, Any]


def statement_document(statement: Statement) -> Document:
    """The statement as JSON can say it."""
    period, subscription, last = statement.period, statement.subscription, statement.last
    usage = statement.usage
    return {
        "statement_version": STATEMENT_VERSION,
        "customer_id": statement.customer_id,
        "period": period.label,
        "billing_day": period.billing_day,
        "from": timestamp(period.start_ms),
        "until": timestamp(period.end_ms),
        "subscription": subscription
        and {
            "plan": subscription.plan,
            "fee": format_amount(subscription.fee_nano),
            "unit": subscription.unit,
        },
        "usage": {
            "requests": usage.requests,
            "lines": [_line(line) for line in usage.lines],
            "rounding": pico_text(usage.rounding_pico),
            "difference": pico_text(usage.difference_pico),
            "total": format_amount(usage.charged_nano),
        },
        "balance": {
            "opening": format_amount(statement.opening_nano),
            **{part: format_amount(statement.parts[part]) for part in PARTS},
            "closing": format_amount(statement.closing_nano),
            "not_effective_yet": format_amount(statement.not_effective_nano),
            "held_of_expired_grants": format_amount(statement.held_nano),
            "ledger_balance": format_amount(statement.balance_nano),
        },
        "credit": {
            category: {
                "opening": format_amount(opening),
                **{name: format_amount(n) for name, n in statement.credit[category].items()},
                "closing": format_amount(opening + sum(statement.credit[category].values())),
            }
            for category, opening in statement.opening.items()
        },
        "grants": [_grant(line) for line in statement.grants],
        "recurring_grants": [
            {"name": terms.name, "category": terms.category}
            for terms in statement.history.allowances.values()
        ],
        "entries": [_entry(entry) for entry in statement.entries if entry.period is None],
        "corrections": [_entry(entry) for entry in statement.entries if entry.period],
        "last_event": last
        and {
            "event_id": last.event_id,
            "occurred_at": timestamp(last.occurred_at_ms),
            "shard": last.shard,
            "epoch": statement.end.epoch if statement.end else 0,
            "seq": statement.end.seq if statement.end else 0,
        },
    }


def document_text(document: Mapping[str, Any]) -> str:
    """The text that is kept: one document has one text."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()


def digest_of(text: str) -> str:
    """The SHA-256 of a document's text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def opening_from(document: Mapping[str, Any]) -> Opening:
    """Where the statement after a closed one begins."""
    history = WalletHistory()
    for grant in document["grants"]:
        history.grants[grant["no"]] = PastGrant(
            grant["no"],
            grant["name"],
            grant["category"],
            _unix_ms(grant["effective_at"]),
            _unix_ms(grant["expires_at"]),
            _nano(grant["closing"]),
        )
    for each in document["recurring_grants"]:
        terms = AllowanceTerms(each["name"], each["category"])
        history.allowances[zlib.crc32(terms.name.encode())] = terms
    history.overdraft_nano = -_nano(document["credit"]["overdraft"]["closing"])
    last = document["last_event"]
    if last is not None:
        history.place = Place(last["epoch"], last["seq"])
        history.last = LastEvent(
            last["event_id"],
            _unix_ms(last["occurred_at"]),
            _nano(document["balance"]["ledger_balance"]),
            last["shard"],
        )
    period = billing_period(document["period"], document["billing_day"])
    begun_ms = _unix_ms(document["from"])  # another one, if the billing day had changed before
    return Opening(replace(period, start_ms=begun_ms), history)


def pico_text(pico: int) -> str:
    """Pico-credits as a decimal of credits, exact."""
    text = format_rate(abs(pico), per=1)
    return f"-{text}" if pico < 0 else text


def _line(line: UsageLine) -> Document:
    name, rate = line.name, line.rate
    document: Document = {
        "model": name.model,
        "service_tier": name.service_tier,
        "unit": name.unit,
        "price_version": name.price_version or None,
        "quantity": line.quantity,
        "shape": rate and rate.shape,
    }
    if rate is not None and not rate.plain:
        document |= {
            "counted_per": rate.period,
            "included": line.included,
            "overage": line.quantity - line.included,
            "tiers": [
                {
                    "up_to": tier.up_to,
                    **_rate(rate, tier.rate_pico),
                    "flat": format_amount(tier.flat_nano),
                    "quantity": quantity,
                }
                for tier, quantity in zip(
                    rate.tiers, line.by_tier or [0] * len(rate.tiers), strict=True
                )
            ],
        }
    elif rate is not None:
        document |= _rate(rate, rate.tiers[0].rate_pico)
    amount = None if line.amount_pico is None else pico_text(line.amount_pico)
    return {**document, "amount": amount}


def _rate(rate: Rate, rate_pico: int) -> Document:
    per = TOKENS_PER_RATE if rate.unit in TOKEN_UNITS else 1
    if rate.shape == "package":
        return {"rate": format_rate(rate_pico, per=1), "per": rate.package_units}
    return {"rate": format_rate(rate_pico, per=per), "per": per}


def _grant(line: GrantLine) -> Document:
    grant = line.grant
    return {
        "no": grant.no,
        "name": grant.name,
        "category": grant.category,
        "effective_at": _moment(grant.effective_at_ms),
        "expires_at": _moment(grant.expires_at_ms),
        "opening": format_amount(line.opening_nano),
        **{name: format_amount(nano) for name, nano in line.moved.items()},
        "closing": format_amount(grant.remaining_nano),
    }


def _entry(entry: Entry) -> Document:
    document: Document = {
        "event_id": entry.event_id,
        "kind": entry.kind,
        "occurred_at": timestamp(entry.occurred_at_ms),
        "amount": format_amount(entry.amount_nano),
        "corrects": entry.corrects,
        "reason": entry.reason,
    }
    return document | ({"period": entry.period} if entry.period else {})


def _moment(unix_ms: int) -> str | None:
    return timestamp(unix_ms) if unix_ms else None


def _unix_ms(text: str | None) -> int:
    if text is None:
        return 0
    return round(dt.datetime.fromisoformat(text).timestamp() * 1000)


def _nano(text: str) -> int:
    return parse_amount(text, signed=True)
