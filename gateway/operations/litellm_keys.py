"""Exports of LiteLLM's database: the tables of keys and of teams, as CSV.

A team is a customer here, or a project where keys name an organization, which is then the customer. A key
of nobody becomes a separate customer. Budgets and rates become limits. LiteLLM's keys are SHA-256, as the
gate's are, so they keep working.

What would let a key do more here than there (an expiry, a blocked key) leaves it out.
"""

import csv
import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

import orjson

from gateway.operations.errors import OperationError
from gateway.operations.moving_in import DraftConfiguration, Section, usable_id
from gateway.operations.pricing_import import plain_decimal

PLAN: Final = "litellm"
CREDIT_LIMIT: Final = "100000.00"
"""LiteLLM has no wallets: its customers owe what they spend."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ALL_MODELS: Final = frozenset({"all-team-models", "all-proxy-models", "*"})
_WINDOWS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("60s", "1m"), "minute"),
    **dict.fromkeys(("60m", "1h"), "hour"),
    **dict.fromkeys(("24h", "1d"), "day"),
    **dict.fromkeys(("7d", "1w"), "week"),
    **dict.fromkeys(("30d", "1mo"), "month"),
}
_NANO: Final = Decimal("0.000000001")
_IGNORED: Final = frozenset({"", "{}", "[]", "null", "f", "false"})
_UNSUPPORTED: Final = (
    "model_max_budget",
    "aliases",
    "permissions",
    "guardrails",
    "object_permission_id",
)


_Row = Mapping[str, str]
"""A line of a table, by column."""


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose a key is."""

    customer_id: str
    project_id: str | None = None


def read_litellm_export(text: Iterable[str], draft: DraftConfiguration, now_ms: int) -> None:
    """Add the customers of one table. Raises OperationError for one that is neither keys nor teams."""
    reader = csv.DictReader(text, strict=True)
    try:
        columns = set(reader.fieldnames or ())
        if "token" in columns:
            rows = [*map(_clean, reader)]
            for row in rows:
                _add_key(row, draft, now_ms)
            if any(row.get("team_id") for row in rows):
                reason = "are in LiteLLM_TeamTable: give its export to --from as well"
                draft.leave_out("budgets, rates and models of teams", reason)
        elif {"team_id", "max_budget"} <= columns:
            for row in map(_clean, reader):
                _add_team(row, draft)
        else:
            raise OperationError(
                "it is neither LiteLLM_VerificationToken (column `token`) nor LiteLLM_TeamTable"
                " (columns `team_id`, `max_budget`)"
            )
    except csv.Error as error:
        raise OperationError(f"line {reader.line_num} is not CSV: {error}") from error
    if draft.customers and PLAN not in draft.plans:
        draft.plans[PLAN] = {"credit_limit": CREDIT_LIMIT}
        reason = (
            f"LiteLLM bills afterwards. Customers may owe {CREDIT_LIMIT} credits (`credit_limit` of the"
            f" plan {PLAN}); lower it, or give them grants"
        )
        draft.leave_out("wallets", reason)


def _clean(row: Mapping[str | None, str | None]) -> _Row:
    """A line without gaps: short lines have no value in their last columns."""
    return {name: (value or "").strip() for name, value in row.items() if name is not None}


def _add_team(row: _Row, draft: DraftConfiguration) -> None:
    name, organization = usable_id(row["team_id"]), usable_id(row.get("organization_id", ""))
    what = f"team {name}"
    if not name:
        draft.leave_out(f"team {row['team_id']!r}", "its id has no letter or digit")
        return
    limits = _limits(row, what, draft)
    if row.get("blocked", "") not in _IGNORED:
        reason = (
            "it is blocked: its limit of 0 concurrent requests admits none. Remove it to unblock"
        )
        draft.leave_out(what, reason)
        limits = [each for each in limits if each["measure"] != "concurrent"]
        limits.append({"measure": "concurrent", "ceiling": 0})
    models = _models(row.get("models", ""), what, draft)
    customer = _customer(draft, organization or name)
    if organization:
        customer.setdefault("projects", {})[name] = {"limits": limits}
        if models is not None:
            draft.leave_out(f"{what} models", "projects have no list of models: restrict its keys")
        return
    if limits:
        customer["limits"] = [{"scope": "customer", **limit} for limit in limits]
    if models is not None:
        customer["models"] = models
    alias = row.get("team_alias", "").replace("$", "")
    if alias:
        customer["tags"] = {"team": alias}


def _add_key(row: _Row, draft: DraftConfiguration, now_ms: int) -> None:
    token = row["token"]
    digest = (
        hashlib.sha256(token.encode()).hexdigest() if token.startswith("sk-") else token.lower()
    )
    shown = row.get("key_alias") or row.get("key_name") or digest[:12]
    what = f"key {shown}"
    if not _HASH.fullmatch(digest):
        draft.leave_out(what, "its token is not a SHA-256 in hex")
        return
    reason = _unusable(row, now_ms)
    if reason is not None:
        draft.leave_out(what, reason)
        return
    if digest in {
        key["sha256"] for each in draft.customers.values() for key in each.get("keys", ())
    }:
        draft.leave_out(what, "it is there twice")
        return
    owner = _owner(row, digest)
    customer = _customer(draft, owner.customer_id)
    key: Section = {"id": _key_id(row, digest, draft), "sha256": digest}
    if owner.project_id:
        key["project"] = owner.project_id
    models = _models(row.get("models", ""), what, draft)
    if models is not None:
        key["models"] = models
    limits = _limits(row, what, draft)
    if limits:
        key["limits"] = limits
    customer.setdefault("keys", []).append(key)
    for name in _UNSUPPORTED:
        if row.get(name, "") not in _IGNORED:
            draft.leave_out(f"{what} {name}", "has no counterpart here")


def _unusable(row: _Row, now_ms: int) -> str | None:
    """Why a key is not carried over."""
    if row.get("blocked", "") not in _IGNORED:
        return "it is blocked"
    expires = row.get("expires", "")
    if not expires:
        return None
    try:
        moment = dt.datetime.fromisoformat(expires)
    except ValueError:
        return f"its expiry {expires!r} is not a date"
    if moment.replace(tzinfo=moment.tzinfo or dt.UTC).timestamp() * 1000 <= now_ms:
        return "it has expired"
    return f"it expires at {expires}, and keys of a configuration do not: create one with an expiry"


def _owner(row: _Row, digest: str) -> _Owner:
    organization, team, user = (
        usable_id(row.get(name, "")) for name in ("organization_id", "team_id", "user_id")
    )
    if organization:
        return _Owner(organization, team or None)
    return _Owner(team or user or usable_id(row.get("key_alias", "")) or f"key-{digest[:12]}")


def _customer(draft: DraftConfiguration, name: str) -> Section:
    return draft.customers.setdefault(name, {"plan": PLAN})


def _key_id(row: _Row, digest: str, draft: DraftConfiguration) -> str:
    taken = {key["id"] for each in draft.customers.values() for key in each.get("keys", ())}
    name = usable_id(row.get("key_alias", ""))
    return name if name and name not in taken else f"k_{digest[:16]}"


def _models(text: str, what: str, draft: DraftConfiguration) -> list[str] | None:
    """Which models; None for all. Those that the configuration lacks are left out, also if none remains."""
    if text in _IGNORED:
        return None
    try:
        names = orjson.loads(text) if text.startswith("[") else next(csv.reader([text.strip("{}")]))
    except orjson.JSONDecodeError:
        raise OperationError(f"the models of {what} are no list: {text!r}") from None
    if _ALL_MODELS.intersection(names):
        return None
    unknown = [name for name in names if name not in draft.models]
    if unknown:
        draft.leave_out(f"{what} models {', '.join(unknown)}", "there are no such models here")
    return [name for name in names if name in draft.models]


def _limits(row: _Row, what: str, draft: DraftConfiguration) -> list[Section]:
    limits: list[Section] = []
    for column, measure in (("rpm_limit", "requests"), ("tpm_limit", "tokens")):
        if row.get(column):
            limits.append({"measure": measure, "window": "minute", "ceiling": _whole(row[column])})
    if row.get("max_parallel_requests"):
        ceiling = _whole(row["max_parallel_requests"])
        limits.append({"measure": "concurrent", "ceiling": ceiling})
    if row.get("max_budget"):
        limits.append(_budget(row, what, draft))
    return limits


def _budget(row: _Row, what: str, draft: DraftConfiguration) -> Section:
    """A budget per window; for other durations, what is left of it without a window."""
    duration = row.get("budget_duration", "")
    budget, spent = _decimal(row["max_budget"]), _decimal(row.get("spend", "") or "0")
    window = _WINDOWS.get(duration)
    if window is None:
        left = max(Decimal(0), budget - spent)
        if duration:
            reason = f"there is no window of this length; the {left:f} that are left are the limit"
            draft.leave_out(f"{what} budget_duration {duration}", reason)
        return {"measure": "spend", "window": "total", "ceiling": _credits(left)}
    if spent:
        reason = (
            f"a window begins with the calendar; the {spent:f} spent in the present one start at 0"
        )
        draft.leave_out(f"{what} spend", reason)
    return {"measure": "spend", "window": window, "ceiling": _credits(budget)}


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise OperationError(f"{text!r} is not a number")
    return number


def _whole(text: str) -> int:
    number = _decimal(text)
    if number < 0 or number != number.to_integral_value():
        raise OperationError(f"{text!r} is not a whole number")
    return int(number)


def _credits(amount: Decimal) -> str:
    return plain_decimal(amount.quantize(_NANO))
