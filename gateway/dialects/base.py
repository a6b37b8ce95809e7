"""The interface between a dialect and the gate: bytes in, facts out; no I/O.

A request is read once, strictly (`strict_json`). The gate forwards that strict parse written out
again, never the client's bytes, so the priced model is the executed model.

Nothing changes a value here that is created for each request. They are not frozen because creating
a frozen dataclass takes three times as long.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from gateway.dialects.passing import api_of
from gateway.dialects.reading.value_count import MAX_JSON_VALUES
from gateway.domain.usage import Usage, UsageSource

JSON_TYPE: Final = "application/json"


class BadRequest(Exception):
    """The body cannot be priced or is invalid; the message says what is wrong, where, and how to fix it.

    param:  path of the offending field, such as "messages[2].content"
    code:   the dialect's machine-readable code, when it has one of its own
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class TooLarge(BadRequest):
    """A part of the request exceeds its size limit."""


MediaKind = Literal["image", "document", "video", "audio"]
"""What a request may carry in addition to text."""

INLINE_IMAGE_TOKENS: Final = 16_384
"""Reserved for an image in the body. Its tokens depend on its pixels, and providers scale it down."""

RESULT_TOKENS: Final = 16_384
"""Reserved for the result of one hosted tool call."""


@dataclass(frozen=True, slots=True)
class MediaTokens:
    """The operator's numbers of input tokens per piece of media; None where not configured."""

    image: int | None = None
    document: int | None = None
    video: int | None = None
    audio: int | None = None

    def stated(self, kind: MediaKind) -> int | None:
        """The number for this kind."""
        number: int | None = getattr(self, kind)
        return number


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How the route and the policy want a request read.

    template_overhead_tokens:  added per message, and once per request, for the chat template
    reference_tokens:          held for media of every kind that `media_tokens` does not name, and for
                               each result of a hosted tool; None when the operator states none
    media_tokens:              held for each piece of media of one kind
    priced_tools:              hosted tool types that the route prices per call
    max_tool_calls:            hosted calls that a request which names no maximum may make; None refuses
                               such a request
    unknown_tools:             whether tools pass that are neither priced nor the caller's own
    extra_fields:              names at the top level of a body that pass although the dialect does
                               not list them
    min_audio_bytes_per_second: the fewest bytes of a second of sound, by which its length is bounded
    allow_stateful_ids:        `previous_response_id`, file ids and such pass (the route owns its provider key)
    max_json_values:           most values of a JSON body (see `reading/value_count.py`)
    """

    template_overhead_tokens: int = 16
    reference_tokens: int | None = None
    priced_tools: frozenset[str] = frozenset()
    allow_stateful_ids: bool = False
    min_audio_bytes_per_second: int = 500
    media_tokens: MediaTokens = MediaTokens()
    unknown_tools: Literal["refuse", "pass"] = "refuse"
    extra_fields: frozenset[str] = frozenset()
    max_tool_calls: int | None = None
    max_json_values: int = MAX_JSON_VALUES

    def tokens_of(self, kind: MediaKind) -> int | None:
        """Input tokens that the operator states for one piece of media; None when the operator
        states none."""
        number = self.media_tokens.stated(kind)
        return self.reference_tokens if number is None else number

    @property
    def result_tokens(self) -> int:
        """Input tokens of one result of a hosted tool."""
        return RESULT_TOKENS if self.reference_tokens is None else self.reference_tokens


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A part of a request whose tokens the body does not bound.

    kind:  of media; `stored` is what the provider keeps, such as a conversation
    param: its path in the body
    """

    kind: MediaKind | Literal["stored"]
    param: str


@dataclass(slots=True)
class Asked:
    """A request as received, for dialects that read more than its body.

    path:    raw, as a route has matched it
    query:   raw, without the question mark
    fields:  header fields in order, names as sent
    """

    method: str
    path: str
    query: str
    fields: Sequence[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of a header field; name in lower case."""
        return [value for sent, value in self.fields if sent.lower() == name]


@dataclass(slots=True)
class Answered:
    """The head of a response, for meters that read more than its body.

    asked_at_s:  when the request went out, by the monotonic clock
    start:       the first bytes of the body, where they decide its form
    """

    status: int
    fields: Sequence[tuple[bytes, bytes]]
    asked_at_s: float
    start: bytes = b""


@dataclass(slots=True)
class RequestFacts:
    """One request as the gate sees it.

    model:          as the client named it
    stream:         the client wants SSE
    input_bound:    upper bound of input tokens of one prompt set: bytes of decoded text, template, references,
                    and room for what hosted tools add
    input_own:      the same without that room: what is counted where nothing is reported; None when
                    there is no such room
    output_bound:   most output tokens per choice the caller allows; None when it does not say
    choices:        how many outputs are generated: n (or best_of) × prompts
    audio, images:  whether audio or images are in the request or asked for
    wants_usage:    a streaming client asked for the usage chunk itself (else it is hidden)
    limits_output:  an output maximum can be set in the forwarded request
    tool_calls:     most hosted tool calls that the route prices; 0 when there are none
    most:           upper bound of what is not in the bounds above: images, bytes, seconds, …
    certain:        what of `most` the request alone decides: counted where an answer tells nothing
    service_tier:   the one that is asked for; None when the provider is to choose
    document:       the strict parse, which `forward_body` writes out
    unmeasured:     the first piece of media that `input_bound` does not cover, for the operator states
                    no number for its kind: the model's context is the bound
    readings:       how often the model reads a context: once for each prompt, and again after each
                    hosted call
    """

    model: str
    stream: bool
    input_bound: int
    output_bound: int | None
    choices: int = 1
    audio: bool = False
    images: bool = False
    wants_usage: bool = True
    limits_output: bool = True
    tool_calls: int = 0
    most: Usage = field(default_factory=dict)
    certain: Usage = field(default_factory=dict)
    service_tier: str | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    input_own: int | None = None
    unmeasured: Unmeasured | None = None
    readings: int = 1


@dataclass(frozen=True, slots=True)
class ForwardOptions:
    """How one upstream wants the body.

    upstream_model:          the model's name there
    inject_usage:            set `stream_options.include_usage` on streams (some upstreams reject it)
    continuous_usage_stats:  the upstream is a vLLM that reports usage in every chunk on request
    max_output:              fill in this output maximum when the caller gave none; None leaves it absent
    lowers:                  it replaces the caller's maximum, too
    max_output_field:        how chat upstreams call it: OpenAI's reasoning models refuse `max_tokens`,
                             older servers do not know `max_completion_tokens`
    service_tier:            in place of `auto`: the only tier that it may be
    customer_scope:          put in front of names that share state at the provider, so that those of two
                             customers never meet; None where a request carries none
    """

    upstream_model: str
    inject_usage: bool = True
    continuous_usage_stats: bool = False
    max_output: int | None = None
    max_output_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    service_tier: str | None = None
    lowers: bool = False
    customer_scope: str | None = None

    def fills(self, output_bound: int | None) -> bool:
        """Whether `max_output` is written into a body whose caller allows this much."""
        return self.max_output is not None and (self.lowers or output_bound is None)


@dataclass(slots=True)
class AnswerFacts:
    """What a response has shown so far; a meter fills it in.

    usage:               exclusive pools as the provider reported them, all its reports together;
                         None until one was usable
    usage_final:         the provider has said that these are the figures of the complete answer
    usage_problem:       why a report could not be used, while none could
    input_reported:      the reports say how much input there was
    output_reported:     the reports say how much output there was
    output_reported_at:  output that the gate had counted when they last did: what it counts after
                         that comes on top
    counted_output:      output tokens counted by the gate: at least one per content frame, at
                         least a quarter of the text's bytes
    fewest_output:       output tokens that it has for certain: a token of more than 16 bytes is rare
    unreadable:          why the answer's bytes could not be decoded; None when they could
    hosted_calls:        calls of hosted tools that the answer shows, each once, failed ones not
    counted:             what the gate counted in addition to output tokens
    source:              where a final usage comes from
    flags:               what the event says about it
    error:               the answer itself said that it failed (an error frame, `response.failed`)
    service_tier:        the tier that served it, as far as the answer says
    """

    usage: Usage | None = None
    usage_final: bool = False
    usage_problem: str | None = None
    input_reported: bool = False
    output_reported: bool = False
    output_reported_at: int = 0
    counted_output: int = 0
    fewest_output: int = 0
    unreadable: str | None = None
    hosted_calls: int = 0
    response_model: str | None = None
    service_tier: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    error: bool = False
    counted: Usage = field(default_factory=dict)
    source: UsageSource = "provider_reported"
    flags: tuple[str, ...] = ()


BYTES_PER_TOKEN: Final = 4
MOST_BYTES_PER_TOKEN: Final = 16
"""Text of longer tokens than this, on the average, is not met."""


class Limit:
    """How much output is covered by what is held.

    most_output: in tokens
    most_bytes:  the bytes of text that are certainly not more tokens than that
    by_fewest:   compare with `fewest_output`, else with `counted_output`
    """

    __slots__ = ("_by_fewest", "most_bytes", "most_output")

    def __init__(self, most_output: float, *, by_fewest: bool = False) -> None:
        self.most_output = most_output
        self.most_bytes = most_output * (MOST_BYTES_PER_TOKEN if by_fewest else BYTES_PER_TOKEN)
        self._by_fewest = by_fewest

    def passed(self, facts: AnswerFacts) -> bool:
        """Whether an answer's output is beyond it."""
        output = facts.fewest_output if self._by_fewest else facts.counted_output
        return output > self.most_output


class Meter(ABC):
    """Reads one answer as it passes. Never raises on what an upstream sends: it notes a problem."""

    facts: AnswerFacts

    @property
    def waiting(self) -> bool:
        """Whether complete pieces of the answer wait until more is held."""
        return False

    @property
    def inside(self) -> bool:
        """Whether the client has the beginning of a piece whose end has not come: nothing of the
        gate's own can be written behind it."""
        return False

    @abstractmethod
    def feed(self, data: bytes, limit: Limit | None = None) -> bytes:
        """Take the next bytes (decoded); return those that pass on to the client.

        limit: output beyond which nothing passes; what waits passes at a later call
        Bytes pass unchanged, except for a usage frame the client did not ask for.
        """

    @abstractmethod
    def finish(self, *, broken: bool = False) -> bytes:
        """The answer has ended: return what was still held back. `facts` are complete now.

        broken: the response is incomplete; a piece whose end is missing is not read
        """


RefusalKind = Literal[
    "no_credit",  # 402
    "account_frozen",  # 402
    "credit_held",  # 429 + Retry-After
    "rate_limited",  # 429 + Retry-After
    "bad_key",  # 401
    "forbidden_model",  # 403
    "unknown_model",  # 404
    "not_found",  # 404
    "method_not_allowed",  # 405
    "bad_request",  # 400
    "conflict",  # 409, will pass
    "already_done",  # 409, final
    "timeout",  # 408
    "too_large",  # 413
    "unsupported_media",  # 415
    "unprocessable",  # 422
    "ledger_unavailable",  # 503 + Retry-After
    "overloaded",  # 503 + Retry-After
    "shutting_down",  # 503 + Retry-After
    "upstream_unreachable",  # 502
    "upstream_auth",  # 502, will not pass
    "upstream_timeout",  # 504
    "internal",  # 500
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A response of the gate itself, written in the caller's dialect.

    detail: machine-readable extras shown in the error's metadata (reason, limit_source,
            available, estimate: decimals as strings)
    """

    kind: RefusalKind
    message: str
    request_id: str
    param: str | None = None
    code: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    retry_after_s: int | None = None
    status: int | None = None
    """Overrides the kind's status (the OpenAI compatibility switch: 429 for no_credit)."""


EVENT_STREAM: Final = "text/event-stream"
_EVENT_STARTS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def form_of(start: bytes) -> Literal["events", "document"] | None:
    """The form of a response by its first bytes; None when they do not decide it.

    Some servers label events `text/plain`, or nothing at all, and errors as events.
    """
    if start.startswith((b"{", b"[")):
        return "document"
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(_EVENT_STARTS):
        return "events"
    return "document" if start.startswith((b"{", b"[")) else None


def may_be_events(start: bytes) -> bool:
    """Whether the first bytes are too few to decide the form of a response."""
    if start.startswith((b"{", b"[")):
        return False
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return any(field.startswith(start) for field in _EVENT_STARTS) and start not in _EVENT_STARTS


class Dialect(ABC):
    """One endpoint family of one provider's API."""

    name: str
    wanted_type = "Send the body as JSON, with `Content-Type: application/json`."
    """The error message for a body of another type."""
    reads_start = True
    """Whether a response's first bytes decide its form rather than its `Content-Type`."""
    reads_key_query = False
    """Whether callers may send their API key as `?key=`; it never goes further."""
    usage_in_chunks = False
    """Whether a stream reports its usage in a chunk that the client asks for."""
    reads_query = False
    """Whether a query has a meaning; else it is not forwarded, and a key in it is refused."""

    @cached_property
    def api(self) -> str:
        """The API it belongs to, which decides the header fields and query parameters that pass."""
        return api_of(self.name)

    def accepts(self, media_type: str) -> bool:
        """Whether a body of this type is read; what is refused is answered 415."""
        # nearly all requests send exactly this
        return media_type == JSON_TYPE or media_type.partition(";")[0].strip().lower() == JSON_TYPE

    def read(self, asked: Asked, options: ReadOptions) -> RequestFacts:
        """Read a request strictly; the body alone, unless a dialect overrides this. Raises BadRequest."""
        return self.read_request(asked.body, options)

    def fingerprint(self, asked: Asked, facts: RequestFacts) -> bytes:  # noqa: ARG002
        """The bytes that identify a request among retries: everything that is priced or executed."""
        return f"{asked.method} {asked.path}?{asked.query}\n".encode() + asked.body

    @abstractmethod
    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""

    def forward_target(self, facts: RequestFacts, options: ForwardOptions, path: str) -> str:  # noqa: ARG002
        """Path and query for the upstream; queries end at the gate, unless a dialect reads them."""
        return path

    def forward_type(self, facts: RequestFacts) -> str | None:  # noqa: ARG002
        """The type of what `forward_body` writes; None when there is no body."""
        return JSON_TYPE

    @abstractmethod
    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse, written out for the upstream."""

    def streams(self, facts: RequestFacts, media_type: str, start: bytes = b"") -> bool:  # noqa: ARG002
        """Whether a response passes on piece by piece; else it is kept until its end.

        start: its first bytes, which count more than its label
        """
        form = form_of(start)
        if form is None:
            return media_type.lower().startswith(EVENT_STREAM)
        return form == "events"

    def meter_answer(self, facts: RequestFacts, answered: Answered, *, streaming: bool) -> Meter:  # noqa: ARG002
        """A meter for the answer with this head."""
        return self.meter(facts, streaming=streaming)

    @abstractmethod
    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:
        """A meter for the answer; streaming says whether it passes on piece by piece."""

    @abstractmethod
    def refusal(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and JSON body of a refusal."""

    @abstractmethod
    def error_frame(self, refusal: Refusal) -> bytes:
        """What ends a running stream: error frame(s) and the dialect's end of stream."""

    def end_stream(self, facts: RequestFacts, refusal: Refusal) -> bytes:  # noqa: ARG002
        """The error frame for this request's stream; nothing where it can only be broken off."""
        return self.error_frame(refusal)
