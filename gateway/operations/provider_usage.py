"""Read what a provider says that it served and billed: usage and cost exports as CSV.

A format is known by its columns (`FORMATS`). Columns that say nothing about quantities or cost are listed
and ignored; any other is an error, because it may be a quantity that would go missing. Columns as
exported in 2025 and 2026 from platform.openai.com/usage and from the usage and cost pages of
console.anthropic.com.
"""

import csv
import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Final

from gateway.domain.usage import CHARGED_AS
from gateway.operations.errors import OperationError

REQUESTS: Final = "requests"
COST: Final = "cost"
_DAY, _MODEL, _CURRENCY, _IGNORED = "day", "model", "currency", ""
_UNITS: Final = (
    *("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"),
    *("audio_input", "audio_output", "image_input"),
    *("tool_call", "second", "byte", "image", "item"),
)
_DATE_SUFFIX: Final = re.compile(r"-(20[0-9]{2}-[0-9]{2}-[0-9]{2}|20[0-9]{6})$")
_KEYED: Final = ("api_key", "api_key_id", "api_key_name", "api_key_status")
_OPENAI_IDS: Final = (
    *("end_time", "start_time_iso", "end_time_iso", "project_id", "project_name", "user_id"),
    *("user_email", "organization_id", "organization_name", "api_source", *_KEYED),
)
_ANTHROPIC_IDS: Final = (
    *("workspace", "usage_type", "context_window", "inference_geo", "speed", *_KEYED),
)


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of export. columns: theirs → what they are here; "" for those that are not needed

    needs:    columns without which it is not this format
    includes: quantity → one that it includes and that is taken off, because here each counts once
    """

    name: str
    columns: Mapping[str, str]
    needs: frozenset[str]
    includes: Mapping[str, str] = field(default_factory=dict)


def _ignored(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, _IGNORED)


FORMATS: Final[Sequence[Format]] = (
    Format(
        "OpenAI usage (completions)",
        {
            "start_time": _DAY,
            "model": _MODEL,
            "num_model_requests": REQUESTS,
            "input_tokens": "input",
            "input_cached_tokens": "cache_read",
            "output_tokens": "output",
            **_ignored(*_OPENAI_IDS, "batch", "service_tier", "input_uncached_tokens"),
            **_ignored("input_text_tokens", "output_text_tokens", "input_cached_text_tokens"),
            **_ignored("input_audio_tokens", "input_cached_audio_tokens", "output_audio_tokens"),
            **_ignored("input_image_tokens", "input_cached_image_tokens", "output_image_tokens"),
        },
        frozenset({"start_time", "model", "input_tokens", "output_tokens"}),
        {"input": "cache_read"},
    ),
    Format(
        "OpenAI costs",
        {
            "start_time": _DAY,
            "line_item": _MODEL,
            "amount_value": COST,
            "amount_currency": _CURRENCY,
            **_ignored(*_OPENAI_IDS, "quantity", "quantity_unit"),
        },
        frozenset({"start_time", "line_item", "amount_value"}),
    ),
    Format(
        "Anthropic usage",
        {
            "usage_date_utc": _DAY,
            "model_version": _MODEL,
            "usage_input_tokens_no_cache": "input",
            "usage_input_tokens_cache_write": "cache_write",
            "usage_input_tokens_cache_write_5m": "cache_write",
            "usage_input_tokens_cache_write_1h": "cache_write_1h",
            "usage_input_tokens_cache_read": "cache_read",
            "usage_output_tokens": "output",
            **_ignored(*_ANTHROPIC_IDS, "web_search_count"),
        },
        frozenset({"usage_date_utc", "model_version", "usage_input_tokens_no_cache"}),
    ),
    Format(
        "Anthropic cost",
        {
            "usage_date_utc": _DAY,
            "model": _MODEL,
            "cost_usd": COST,
            **_ignored(*_ANTHROPIC_IDS, "token_type", "list_price_usd", "cost_type"),
        },
        frozenset({"usage_date_utc", "model", "cost_usd"}),
    ),
    Format(
        "generic",
        {name: name for name in (_DAY, _MODEL, REQUESTS, COST, _CURRENCY, *_UNITS)},
        frozenset({_DAY, _MODEL}),
    ),
)


@dataclass(slots=True)
class ProviderSums:
    """What the file says of one model on one day. cost: in the provider's currency"""

    quantities: dict[str, int] = field(default_factory=dict)
    cost: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class ProviderUsage:
    """A file that was read.

    measures:   quantities that it has, `requests` included
    has_cost:   whether it says what is billed
    lines:      (day, model) → sums; the day in UTC, the model by `plain_model`
    """

    format_name: str
    measures: tuple[str, ...]
    has_cost: bool
    currency: str
    lines: Mapping[tuple[str, str], ProviderSums]


def plain_model(name: str) -> str:
    """A model's name without the date of its version, as both sides can be expected to have it:
    `Claude Haiku 4.5` and `claude-haiku-4-5-20251001` are both `claude-haiku-4-5`."""
    plain = re.sub(r"[\s._]+", "-", name.strip().lower())
    return _DATE_SUFFIX.sub("", plain)


def fold(unit: str, measures: Iterable[str]) -> str | None:
    """The quantity of the file that a unit of an event belongs to: its own, or that of its parent."""
    at: str | None = unit
    while at is not None and at not in measures:
        at = CHARGED_AS.get(at)
    return at


def read_provider_usage(
    lines: Iterable[str],
    renamed: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> ProviderUsage:
    """Read an export. renamed: their column → one of a known format, or "" to ignore it; aliases: their
    model → ours. Raises OperationError for what is not understood, with its line."""
    reader = csv.reader(lines)
    header = [name.strip().lstrip("\ufeff") for name in next(reader, [])]
    theirs = [(renamed or {}).get(name, name) for name in header]
    missing = sorted(set(renamed or {}) - set(header))
    if missing:
        raise OperationError(f"the file has no column {missing[0]!r}. It has: {', '.join(header)}")
    form = _format_of(theirs)
    roles = [form.columns.get(name, _IGNORED) if name else _IGNORED for name in theirs]
    known = {plain_model(name): plain_model(ours) for name, ours in (aliases or {}).items()}
    sums: dict[tuple[str, str], ProviderSums] = {}
    currencies: set[str] = set()
    for number, values in enumerate(reader, 2):
        if not values:
            continue
        if len(values) != len(roles):
            raise OperationError(
                f"line {number} has {len(values)} columns, the header has {len(roles)}"
            )
        try:
            _add_line(form, list(zip(roles, values, strict=True)), sums, known, currencies)
        except ValueError as error:
            raise OperationError(f"line {number}: {error}") from None
    if len(currencies) > 1:
        raise OperationError(f"the file has several currencies: {', '.join(sorted(currencies))}")
    present = [role for role in roles if role not in (_DAY, _MODEL, COST, _CURRENCY, _IGNORED)]
    measures = tuple(dict.fromkeys(present))
    return ProviderUsage(form.name, measures, COST in roles, "".join(currencies), sums)


def _format_of(columns: Sequence[str]) -> Format:
    """The format that has these columns. Raises OperationError."""
    have = {name for name in columns if name}
    for form in FORMATS:
        if form.needs <= have:
            unknown = sorted(have - form.columns.keys())
            if unknown:
                raise OperationError(
                    f"columns that are not understood in {form.name}: {', '.join(unknown)}. Name"
                    " what each is with --column THEIRS=OURS, or ignore it with --column THEIRS="
                )
            return form
    known = "; ".join(f"{form.name}: {', '.join(sorted(form.needs))}" for form in FORMATS)
    raise OperationError(
        f"no export that is known has these columns: {', '.join(columns)}. At least needed are:"
        f" {known}. Rename columns with --column THEIRS=OURS"
    )


def _add_line(
    form: Format,
    cells: Sequence[tuple[str, str]],
    sums: dict[tuple[str, str], ProviderSums],
    aliases: Mapping[str, str],
    currencies: set[str],
) -> None:
    day = model = ""
    cost = Fraction(0)
    quantities: dict[str, int] = {}
    for role, value in cells:
        text = value.strip()
        if not text or role == _IGNORED:
            continue
        match role:
            case "day":
                day = _day(text)
            case "model":
                model = text.partition(", ")[0]  # a line item of OpenAI names the class after it
            case "cost":
                cost += Fraction(_number(text))
            case "currency":
                currencies.add(text.lower())
            case _:
                quantities[role] = quantities.get(role, 0) + _whole(text)
    if not quantities and not cost:
        return  # a day without use
    if not day:
        raise ValueError("it has no day")
    if not model and form.name == "OpenAI costs":
        raise ValueError("it has no line item: export the costs grouped by line item")
    for total, part in form.includes.items():
        quantities[total] = quantities.get(total, 0) - quantities.get(part, 0)
    model = plain_model(model)
    line = sums.setdefault((day, aliases.get(model, model)), ProviderSums())
    line.cost += cost
    for name, quantity in quantities.items():
        line.quantities[name] = line.quantities.get(name, 0) + quantity


def _day(text: str) -> str:
    """A day of a date, a moment in ISO 8601, or Unix seconds; in UTC. Raises ValueError."""
    try:
        if text.isdigit() and len(text) > 8:
            return dt.datetime.fromtimestamp(int(text), dt.UTC).strftime("%Y-%m-%d")
        moment = dt.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a date") from None
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC)
    return moment.strftime("%Y-%m-%d")


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text.replace(",", ""))
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a number") from None
    if not number.is_finite():
        raise ValueError(f"{text!r} is not a number")
    return number


def _whole(text: str) -> int:
    number = _number(text)
    if number != int(number):
        raise ValueError(f"{text!r} is not a whole number")
    return int(number)
