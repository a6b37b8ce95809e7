"""Quantities that a route is priced by: where each is found, and what bounds it.

A quantity is named by the request (which bounds it, and decides it unless the response reports it),
reported by the response (bounded by the request, or by what the operator states), or measured by
the gate. Numbers are integers and not negative; a fraction is rounded up.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.dialects.any_api.pointer import MISSING, Pointer
from gateway.dialects.base import Asked, BadRequest
from gateway.dialects.reading.numbers import BadUsage, read_quantity

ABSURD_FACTOR: Final = 100
"""A quantity beyond this many times its bound is a fault of the upstream: it is not charged."""

Measured = Literal["request_bytes", "response_bytes", "both_bytes", "upstream_seconds"]

MAX_QUANTITY: Final = 2**53
"""The largest number that every JSON reader takes for the same."""

_DECIMAL: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a quantity stands: a header field (name in lower case), or a pointer into JSON.

    length:  what counts is how many items, members or characters stand there
    """

    header: str | None = None
    pointer: Pointer | None = None
    length: bool = False

    def __str__(self) -> str:
        return f"the header {self.header}" if self.pointer is None else repr(self.pointer.text)


@dataclass(frozen=True, slots=True)
class Quantity:
    """One unit of a route's price and where its quantity comes from.

    requested:      where the request says it
    reported:      where the answer reports it
    measured:  what the gate measures, where neither does
    at_most:   its upper bound; a request that says more is refused
    default:   of a request that does not say it; None refuses such a request
    """

    unit: str
    at_most: int
    requested: Place | None = None
    reported: Place | None = None
    measured: Measured | None = None
    default: int | None = None

    def read(self, asked: Asked, document: Any) -> int:
        """What the request says. Raises BadRequest."""
        assert self.requested is not None
        if self.requested.pointer is not None:
            value = self.requested.pointer.find_alone(document)
        else:
            value = _sent(asked, self.requested.header or "")
        param = (
            self.requested.header if self.requested.pointer is None else self.requested.pointer.text
        )
        if value is MISSING:
            if self.default is None:
                raise BadRequest(
                    f"This endpoint is priced by {self.requested}, which is missing.", param=param
                )
            return self.default
        try:
            quantity = _sent_quantity(value, self.requested)
        except BadUsage as bad:
            raise BadRequest(
                f"This endpoint is priced by {self.requested}, which {bad}.", param=param
            ) from None
        if quantity > self.at_most:
            raise BadRequest(
                f"This endpoint is priced by {self.requested}: {quantity} is more than the"
                f" {self.at_most} that are possible here.",
                param=param,
            )
        return quantity

    def tell(self, fields: Sequence[tuple[bytes, bytes]], document: Any) -> int | None:
        """What the answer tells; None when it does not. Raises BadUsage."""
        assert self.reported is not None
        if self.reported.pointer is not None:
            value = self.reported.pointer.find(document)
        else:
            value = _answered(fields, self.reported.header or "")
        if value is MISSING:
            return None
        return _length(value) if self.reported.length else read_quantity(value, most=MAX_QUANTITY)


def first_bounds(
    quantities: Sequence[Quantity], asked: Asked, document: Any, size_bytes: int
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """What each unit is at most, and what the request alone decides. Raises BadRequest.

    size_bytes: of the body that goes upstream
    """
    most: dict[str, int] = {}
    certain: dict[str, int] = {}
    for each in quantities:
        if each.requested is not None:
            requested = each.read(asked, document)
            most[each.unit] = requested
            if each.reported is None:
                certain[each.unit] = requested
        elif each.measured == "request_bytes":
            most[each.unit] = certain[each.unit] = size_bytes
        elif each.measured == "both_bytes":
            most[each.unit] = size_bytes + each.at_most
            certain[each.unit] = size_bytes
        else:
            most[each.unit] = each.at_most
    return most, certain


def _sent_quantity(value: Any, place: Place) -> int:
    """The quantity that a request's value means; requests are read strictly. Raises BadUsage."""
    if place.length:
        return _length(value)
    if place.pointer is None:
        match = _DECIMAL.fullmatch(value)
        if match is None:
            raise BadUsage("is not a decimal number")
        return int(match[1]) + (1 if match[2] and match[2].strip("0") else 0)
    if type(value) is str or (quantity := read_quantity(value, most=MAX_QUANTITY)) is None:
        raise BadUsage("is not a number")
    return quantity


def _length(value: Any) -> int:
    if type(value) in (str, list, dict):
        return len(value)
    raise BadUsage("is not a string, a list or an object")


def _sent(asked: Asked, name: str) -> Any:
    """A header field of a request, where no reader could see another value. Raises BadRequest."""
    for sent, _ in asked.fields:
        low = sent.lower()
        if low != name and low.replace("_", "-") == name.replace("_", "-"):
            raise BadRequest(f"The header {sent!r} could be taken for {name!r}.", param=name)
    if any(
        name in value.lower().replace(" ", "").split(",") for value in asked.values("connection")
    ):
        raise BadRequest(f"`Connection` must not name {name!r}: it prices the request.", param=name)
    values = asked.values(name)
    if len(values) > 1:
        raise BadRequest(f"The header {name!r} stands more than once.", param=name)
    return values[0].strip() if values else MISSING


def _answered(fields: Sequence[tuple[bytes, bytes]], name: str) -> Any:
    values = [value for sent, value in fields if sent.lower() == name.encode()]
    if len(values) > 1:
        raise BadUsage(f"{name} stands more than once")
    return values[0].decode("latin-1").strip() if values else MISSING
