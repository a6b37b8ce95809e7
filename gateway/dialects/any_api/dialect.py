"""Any API: an endpoint that has nothing to do with models, priced by quantities of its own.

Where a quantity is read from the body, the body is one strict parse of JSON, and that parse is what goes
upstream; else the client's own bytes do, whatever they are. Of the query only the parameters that
the route names may stand. Refusals have OpenAI's shape.

An answer other than 2xx is not charged, unless the route says so. What an answer should tell and
does not is charged at its bound (`usage_missing`), what is no quantity, or beyond `ABSURD_FACTOR`
times the bound, as well (`usage_absurd`); what lies between is charged in full.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from gateway.dialects.any_api.pointer import MISSING
from gateway.dialects.any_api.quantities import ABSURD_FACTOR, Quantity, first_bounds
from gateway.dialects.base import (
    JSON_TYPE,
    Answered,
    AnswerFacts,
    Asked,
    BadRequest,
    ForwardOptions,
    Limit,
    Meter,
    ReadOptions,
    RequestFacts,
)
from gateway.dialects.openai.answers import OpenAIDialect
from gateway.dialects.reading.document import AnswerDocument
from gateway.dialects.reading.numbers import BadUsage
from gateway.dialects.reading.strict_json import parse_document

MAX_MEASURED_BYTES: Final = 8 * 1024 * 1024
"""In a longer answer no list or text is measured; figures are found in any."""

_PARAMETER: Final = re.compile(
    r"([A-Za-z0-9._~\[\]-]+)(?:=((?:[A-Za-z0-9._~!$'()*+,:@/?=\[\]-]|%[0-9A-Fa-f]{2})*))?", re.ASCII
)
"""A name without escapes, and a value without `;`, which some servers take for `&`."""

_BODY: Final = "body"
_TYPE: Final = "type"
_TARGET: Final = "target"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a route says of its price.

    quantities:     one for each unit other than `request`
    query:          names of the parameters that pass
    charge_errors:  answers other than 2xx are charged too
    """

    quantities: tuple[Quantity, ...] = ()
    query: frozenset[str] = field(default_factory=frozenset)
    charge_errors: bool = False


class AnyApi(OpenAIDialect):
    """One such endpoint. clock: monotonic, in seconds."""

    name = "generic"
    reads_query = True
    reads_start = False

    def __init__(self, terms: Terms, clock: Callable[[], float] = time.monotonic) -> None:
        self._terms = terms
        self._clock = clock
        requested = [each for each in terms.quantities if each.requested and each.requested.pointer]
        self._reads_json = bool(requested)
        self._may_be_empty = all(each.default is not None for each in requested)
        self._keeps_answer = any(
            each.reported is not None and each.reported.pointer is not None
            for each in terms.quantities
        )

    def accepts(self, media_type: str) -> bool:
        """JSON where a quantity is read from it, else anything."""
        return not self._reads_json or super().accepts(media_type)

    def read(self, asked: Asked, options: ReadOptions) -> RequestFacts:
        """The quantities that the request says, and the bounds of all. Raises BadRequest."""
        _check_query(asked.query, self._terms.query)
        document: Any = MISSING
        body = asked.body
        types = asked.values("content-type")
        if len(types) > 1:
            raise BadRequest("`Content-Type` stands more than once.")
        media_type: str | None = types[0] if types else None
        if self._reads_json:
            if body or not self._may_be_empty:
                document = parse_document(body, options.max_json_values)
                body = orjson.dumps(document)
            media_type = JSON_TYPE if body else None
        most, certain = first_bounds(self._terms.quantities, asked, document, len(body))
        target = asked.path + ("?" + asked.query if asked.query else "")
        return RequestFacts(
            model="",
            stream=False,
            input_bound=0,
            output_bound=0,
            choices=0,
            most=most,
            certain=certain,
            document={_BODY: body, _TYPE: media_type, _TARGET: target},
        )

    def fingerprint(self, asked: Asked, facts: RequestFacts) -> bytes:
        """Include the quantities, which may come from headers."""
        return f"{sorted(facts.most.items())} ".encode() + super().fingerprint(asked, facts)

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """A POST of this body alone. Raises BadRequest."""
        return self.read(Asked("POST", "/", "", (), body), options)

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:  # noqa: ARG002
        """The strict parse where something in it is priced, else the client's bytes."""
        body = facts.document[_BODY]
        assert type(body) is bytes, "facts of another dialect"
        return body

    def forward_target(self, facts: RequestFacts, options: ForwardOptions, path: str) -> str:  # noqa: ARG002
        """The path, and the query with its known parameters."""
        target: str = facts.document[_TARGET]
        return target

    def forward_type(self, facts: RequestFacts) -> str | None:
        """The client's own, or JSON where it was read."""
        media_type: str | None = facts.document[_TYPE]
        return media_type

    def streams(self, facts: RequestFacts, media_type: str, start: bytes = b"") -> bool:  # noqa: ARG002
        """All but JSON, which is kept so that its cost can be sent in a header."""
        return not super().accepts(media_type)

    def meter_answer(self, facts: RequestFacts, answered: Answered, *, streaming: bool) -> Meter:
        """A meter for the answer with this head."""
        return QuantityMeter(
            self._terms, facts, answered, self._clock, streaming=streaming, keeps=self._keeps_answer
        )

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:
        """A meter for a 200 without fields, asked for just now."""
        return self.meter_answer(facts, Answered(200, (), self._clock()), streaming=streaming)


class QuantityMeter(Meter):
    """Finds what an answer tells and measures what passes. All bytes pass at once."""

    def __init__(
        self,
        terms: Terms,
        asked: RequestFacts,
        answered: Answered,
        clock: Callable[[], float],
        *,
        streaming: bool,
        keeps: bool,
    ) -> None:
        self.facts = AnswerFacts(input_reported=True, output_reported=True)
        self._terms = terms
        self._most = asked.most
        self._certain = asked.certain
        self._answered = answered
        self._clock = clock
        self._streaming = streaming
        self._document: AnswerDocument | None = None
        if keeps:
            places = [
                each.reported.pointer for each in terms.quantities if each.reported is not None
            ]
            steps = [place.steps for place in places if place is not None]
            self._document = AnswerDocument(
                frozenset(step for each in steps for step in each),
                frozenset(each[-1] for each in steps if each),
                MAX_MEASURED_BYTES,
            )
        self._size = 0
        self._succeeded = 200 <= answered.status < 300
        self._charged = self._succeeded or terms.charge_errors
        self.facts.error = not self._succeeded

    def feed(self, data: bytes, limit: Limit | None = None) -> bytes:  # noqa: ARG002 - all is held
        """Count the bytes, and keep them where they tell something."""
        self._size += len(data)
        if self._document is not None:
            self._document.feed(data)
        if self._streaming and self._charged:
            # What the client has, it owes, also if the rest never comes.
            self.facts.usage = {**self._certain, **self._measured()}
        return data

    def finish(self, *, broken: bool = False) -> bytes:  # noqa: ARG002
        """Take what the response reported. Nothing was held back."""
        if not self._charged:
            return b""
        facts = self.facts
        usage = {"request": 1, **self._certain, **self._measured()}
        document = MISSING if self._document is None else self._document.value()
        facts.source = "counted"
        for each in self._terms.quantities:
            if each.reported is not None:
                usage[each.unit] = self._told(each, document)
        facts.usage = usage
        facts.usage_final = True
        return b""

    def _told(self, each: Quantity, document: Any) -> int:
        bound = self._most[each.unit]
        try:
            reported = None
            if not (each.reported is not None and each.reported.length and self._is_shortened):
                reported = each.tell(self._answered.fields, document)
            problem = "usage_missing"
            if reported is not None and reported > ABSURD_FACTOR * max(1, bound):
                raise BadUsage("is absurd")
        except BadUsage:
            reported, problem = None, "usage_absurd"
        if reported is None and not self._succeeded:
            return 0  # an error tells nothing, and uses nothing that it does not tell
        if reported is None:
            self._flag(problem)
            return bound
        if self.facts.source == "counted":
            self.facts.source = "provider_reported"
        return reported

    @property
    def _is_shortened(self) -> bool:
        return self._document is not None and self._document.skimmed

    def _flag(self, word: str) -> None:
        facts = self.facts
        facts.source = "estimated"
        facts.flags = tuple(dict.fromkeys((*facts.flags, word)))

    def _measured(self) -> Mapping[str, int]:
        found = {}
        for each in self._terms.quantities:
            if each.measured == "upstream_seconds":
                measured = math.ceil(max(0.0, self._clock() - self._answered.asked_at_s))
            elif each.measured in ("response_bytes", "both_bytes"):
                measured = self._certain.get(each.unit, 0) + self._size
            else:
                continue
            found[each.unit] = min(measured, ABSURD_FACTOR * max(1, self._most[each.unit]))
        return found


def _check_query(query: str, known: Sequence[str] | frozenset[str]) -> None:
    """Let pass only parameters that the route names, each in one spelling. Raises BadRequest."""
    if not query:
        return
    for parameter in query.split("&"):
        match = _PARAMETER.fullmatch(parameter)
        if match is None:
            raise BadRequest("The query is not made of plain names and escaped values.")
        if match[1] not in known:
            raise BadRequest(
                f"The query parameter {match[1][:64]!r} is not known here; omit it.",
                param=match[1][:64],
            )
