"""What the API reads and answers: types of single values, and the list that every list is."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from gateway.admin.api.errors import ApiError
from gateway.domain.money import MoneyError, parse_amount
from gateway.domain.stores import ChangePlace

T = TypeVar("T")

PAGE_MOST: Final = 100
LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999; a later moment is read as this one, one before 1970 as its beginning."""
EARLY_YEAR: Final = 1970
_DECIMALS: Final = r"(\.[0-9]{1,9})?$"


class Model(BaseModel):
    """An object that the API answers."""

    model_config = ConfigDict(frozen=True)


class Body(BaseModel):
    """An object that a client sends. An unknown field is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _positive(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError('an amount is a string, such as "12.50"')
    try:
        nano = parse_amount(value)
    except MoneyError as error:
        raise ValueError(str(error)) from error
    if nano <= 0:
        raise ValueError("an amount is more than 0")
    return nano


def _not_negative(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError('an amount is a string, such as "12.50"')
    try:
        return parse_amount(value)
    except MoneyError as error:
        raise ValueError(str(error)) from error


def _signed(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError('an amount is a string, such as "-12.50"')
    try:
        nano = parse_amount(value, signed=True)
    except MoneyError as error:
        raise ValueError(str(error)) from error
    if nano == 0:
        raise ValueError("an amount is not 0")
    return nano


def _moment_ms(value: Any) -> int:
    if not isinstance(value, str) or "T" not in value.upper():
        raise ValueError("a time is a string in RFC 3339, such as 2027-01-31T00:00:00Z")
    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError as error:
        raise ValueError("a time is written in RFC 3339, such as 2027-01-31T00:00:00Z") from error
    if moment.tzinfo is None:
        raise ValueError("a time has a time zone, such as 2027-01-31T00:00:00Z")
    try:
        unix_ms = int(moment.timestamp() * 1000)
    except (OverflowError, ValueError):  # the offset moves it out of datetime's range of years
        unix_ms = 0 if moment.year < EARLY_YEAR else LAST_MS
    return min(max(0, unix_ms), LAST_MS)


def _whole(value: Any) -> Any:
    """JSON has one type of numbers: 5.0 is 5. A text is no number."""
    if isinstance(value, bool | str):
        raise ValueError("a whole number is expected")
    return value


_WHOLE: Final = "([0-9]{1,6}|[1-8][0-9]{6})"
CREDITS_PATTERN: Final = f"^{_WHOLE}{_DECIMALS}"

NUMBER: Final = BeforeValidator(_whole)
"""Behind the bounds of an int: `Annotated[int, Field(ge=0), NUMBER]`."""
PositiveAmount = Annotated[
    int,
    BeforeValidator(_positive),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^{_WHOLE}{_DECIMALS}",
            "not": {"pattern": "^[0.]*$"},
            "examples": ["12.50"],
        }
    ),
]
"""Credits as a decimal; read as nano-credits."""
SignedAmount = Annotated[
    int,
    BeforeValidator(_signed),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^-?{_WHOLE}{_DECIMALS}",
            "not": {"pattern": "^[-0.]*$"},
            "examples": ["-12.50"],
        }
    ),
]
CreditLimit = Annotated[
    int,
    BeforeValidator(_not_negative),
    WithJsonSchema({"type": "string", "pattern": CREDITS_PATTERN, "examples": ["100.00"]}),
]
"""Credits as a decimal, 0 or more; read as nano-credits."""
MomentMs = Annotated[
    int,
    BeforeValidator(_moment_ms),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2027-01-31T00:00:00Z"]}),
]
"""RFC 3339 with a time zone; read as Unix ms."""

Amount = Annotated[
    str,
    Field(
        description="Credits, as a decimal.", examples=["12.5"], pattern=r"^-?[0-9]+(\.[0-9]+)?$"
    ),
]
Moment = Annotated[
    str,
    Field(
        description="RFC 3339, UTC.",
        examples=["2027-01-31T08:30:00.125Z"],
        json_schema_extra={"format": "date-time"},
    ),
]
_PLAIN: Final = r"^[^\x00-\x1f\x7f]*$"
Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_PLAIN)]
"""A name or title."""
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=_PLAIN)]
"""Why; kept on record."""
_ID: Final = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}"
WalletId = Annotated[
    str,
    StringConstraints(pattern=rf"^{_ID}(~test|~shadow)?$"),
    Field(
        description="A customer's id. With ~test or ~shadow at the end it names the wallet of test"
        " keys or of shadow mode.",
        examples=["acme"],
    ),
]
RecordId = Annotated[
    str,
    StringConstraints(pattern=rf"^{_ID}$"),
    Field(description="A customer's id.", examples=["acme"]),
]
ProjectId = Annotated[
    str,
    StringConstraints(pattern=rf"^{_ID}$"),
    Field(description="A project's id, unique within its customer.", examples=["search"]),
]
KeyId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}$"),
    Field(description="A key's id.", examples=["k_5f0c8a1e9b2d7c43"]),
]
ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}$"),
    Field(description="A model of the configuration.", examples=["gpt-4.1"]),
]
EventId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][ -~]{0,511}$"),
    Field(description="An event's id.", examples=["req_0123456789abcdef:settled"]),
]
RequestId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"),
    Field(description="A request's id, from `x-request-id`.", examples=["req_0123456789abcdef"]),
]


class Paging(BaseModel):
    """Which part of a list is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: Annotated[int, Field(ge=1, le=PAGE_MOST, description="Entries in one answer.")] = 20
    starting_after: Annotated[
        str | None,
        StringConstraints(min_length=1, max_length=512, pattern=_PLAIN),
        Field(description="`next_cursor` of the page before."),
    ] = None


class PlacePaging(Paging):
    """Which part of a list by time is wanted."""

    starting_after: Annotated[
        str | None,
        StringConstraints(pattern=r"^[0-9]{1,15}(\.[0-9]{1,15}){3}$"),
        Field(description="`next_cursor` of the page before."),
    ] = None

    @property
    def place(self) -> ChangePlace | None:
        """The place that the cursor names."""
        cursor = self.starting_after
        return None if cursor is None else ChangePlace(*map(int, cursor.split(".")))


class Period(BaseModel):
    """A span of time: from `since` on, before `until`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: MomentMs | None = None
    until: MomentMs | None = None


class ListOf(Model, Generic[T]):
    """A page of a list. `next_cursor` goes into `starting_after` of the next request."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool
    next_cursor: str | None = None

    @classmethod
    def page(cls, entries: Sequence[T], paging: Paging, key: Callable[[T], str]) -> Self:
        """The entries of a list in memory that follow the one that `starting_after` names.

        key: the cursor of an entry. Raises ApiError if there is no such entry.
        """
        begin = 0
        if paging.starting_after is not None:
            keys = [key(entry) for entry in entries]
            if paging.starting_after not in keys:
                raise ApiError(
                    "not_found",
                    f"There is no entry {paging.starting_after!r} in this list.",
                    param="starting_after",
                )
            begin = keys.index(paging.starting_after) + 1
        data = list(entries[begin : begin + paging.limit])
        has_more = begin + paging.limit < len(entries)
        return cls(data=data, has_more=has_more, next_cursor=key(data[-1]) if has_more else None)


class ErrorBody(Model):
    """What went wrong."""

    type: str
    code: Annotated[str, Field(description="One of the table of error codes.")]
    message: str
    param: Annotated[str | None, Field(description="The parameter that is wrong.")] = None
    doc_url: str
    request_id: str


class ErrorAnswer(Model):
    """The shape of every error."""

    error: ErrorBody
