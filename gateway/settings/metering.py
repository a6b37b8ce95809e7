"""Section `meter` of a route with prices: where each quantity comes from.

Invariants: every quantity is bounded before the request runs. A quantity that the response
reports or the gate measures has `at_most`; so has one from the request, as the most that is
accepted.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from gateway.dialects.any_api.pointer import Pointer
from gateway.dialects.any_api.quantities import Measured, Place, Quantity
from gateway.flow.header_names import may_forward
from gateway.settings.problems import Wrong
from gateway.settings.scalars import HeaderName, Section, Whole, field

MAX_AT_MOST: Final = 10_000_000_000
"""A reported quantity may be 100 times its bound, and must still fit into a vector."""

MeterField = Literal[
    "input",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "per_tool_call",
    "per_second",
    "per_byte",
    "per_image",
    "per_item",
]
"""Fields of a price whose quantity can be metered: all except `per_request`, which is always 1."""


def _pointer(value: Any) -> str:
    text = "" if value is None else str(value)
    try:
        Pointer.parse(text)
    except ValueError as error:
        raise Wrong(f"{text!r} is not a JSON pointer: {error}", "Write such as /items.") from error
    return text


def _query_name(value: Any) -> str:
    text = str(value)
    if not text or not all(c.isascii() and (c.isalnum() or c in "._~[]-") for c in text):
        raise Wrong(f"{text!r} is not a parameter's name", "Use letters, digits and . _ ~ [ ] -.")
    return text


QueryName = Annotated[str, BeforeValidator(_query_name), WithJsonSchema({"type": "string"})]
PointerText = Annotated[str, BeforeValidator(_pointer), WithJsonSchema({"type": "string"})]


class QuantitySection(Section):
    """Where one quantity comes from. A field of the request sets and bounds it. If a field of the
    response sets it, the request's field or `at_most` is the bound. Worked examples:
    docs/how-to/any-api.md."""

    request_pointer: PointerText | None = field(
        "JSON pointer (RFC 6901) to a number in the request body.", "/copies", None
    )
    request_header: HeaderName | None = field(
        "Request header with a decimal number.", "x-pages", None
    )
    response_pointer: PointerText | None = field(
        "JSON pointer to a number in the response body.", "/usage/pages", None
    )
    response_header: HeaderName | None = field(
        "Response header with a decimal number.", "x-pages", None
    )
    measure: Literal["value", "length"] = field(
        "What a pointer yields: the number at that place, or how many items, members or "
        "characters it has.",
        "length",
        "value",
    )
    bytes_of: Literal["request", "response", "both"] | None = field(
        "Bytes of the bodies, counted by the gate.", "response", None
    )
    seconds_of: Literal["upstream"] | None = field(
        "Seconds from sending the request to the response's last byte, rounded up.",
        "upstream",
        None,
    )
    at_most: Annotated[int, Whole(0, MAX_AT_MOST)] | None = field(
        "Upper bound. A request with more is refused; a quantity from the response is held at it."
        " Defaults: the upstream's `total_ms` for seconds, `max_body_bytes` for request bytes.",
        1000,
        None,
    )
    default: Annotated[int, Whole(0, MAX_AT_MOST)] | None = field(
        "Quantity of a request without the field, as the upstream interprets it. Without a "
        "default such a request is refused.",
        1,
        None,
    )

    @model_validator(mode="after")
    def _one_source(self) -> "QuantitySection":
        said = [self.request_pointer, self.request_header]
        told = [self.response_pointer, self.response_header]
        measured = [self.bytes_of, self.seconds_of]
        counts = [sum(x is not None for x in group) for group in (said, told, measured)]
        if max(counts) > 1 or (counts[2] and (counts[0] or counts[1])):
            raise Wrong(
                "has more than one source",
                "Set one field of the request, one of the response, or one of each; or what is "
                "measured.",
            )
        if not any(counts):
            raise Wrong("has no source", "For example: `request_pointer: /n`.")
        if self.at_most is None and not (self.seconds_of or self.bytes_of == "request"):
            raise Wrong(
                "is missing: without it the quantity has no bound",
                "Write such as 1000.",
                at="at_most",
            )
        if self.at_most is not None and self.bytes_of == "request":
            raise Wrong(
                "request bytes are already bounded by `listen.max_body_bytes`", at="at_most"
            )
        if self.default is not None and not counts[0]:
            raise Wrong("applies only to quantities from the request", "Remove it.", at="default")
        if self.default is not None and self.default > (self.at_most or 0):
            raise Wrong(f"is above `at_most`, {self.at_most}", at="default")
        pointed = self.request_pointer is not None or self.response_pointer is not None
        if self.measure == "length" and not pointed:
            raise Wrong("applies only to a quantity from a pointer", "Remove it.", at="measure")
        if self.request_header is not None and not may_forward(self.request_header):
            raise Wrong(
                f"the header {self.request_header!r} does not reach the upstream unchanged",
                at="request_header",
            )
        return self

    def compiled(self, unit: str, *, total_ms: int, max_body_bytes: int) -> Quantity:
        """Convert to the dialect's form. total_ms: from the upstream's timeouts."""
        measured: Measured | None = None
        at_most = self.at_most
        match self.bytes_of:
            case "request":
                measured, at_most = "request_bytes", max_body_bytes
            case "response":
                measured = "response_bytes"
            case "both":
                measured = "both_bytes"
        if self.seconds_of:
            measured = "upstream_seconds"
            at_most = -(-total_ms // 1000) if at_most is None else at_most
        assert at_most is not None, "checked"
        return Quantity(
            unit,
            at_most,
            requested=self._place(self.request_pointer, self.request_header),
            reported=self._place(self.response_pointer, self.response_header),
            measured=measured,
            default=self.default,
        )

    def _place(self, pointer: str | None, header: str | None) -> Place | None:
        if pointer is not None:
            return Place(pointer=Pointer.parse(pointer), length=self.measure == "length")
        return None if header is None else Place(header=header)
