"""Section `policy`: a preset, and settings that differ from it.

Invariants: a preset is nothing but the values in `PRESETS`, from which the reference page's table
is generated. A route's policy starts from the general one, unless it names a preset.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator

from gateway.dialects.base import MediaKind, MediaTokens
from gateway.flow.catalog import Policy
from gateway.settings.scalars import (
    Milliseconds,
    Section,
    Share,
    Switch,
    Tokens,
    Whole,
    field,
    read_whole,
)

Preset = Literal["strict", "balanced", "generous"]
DisconnectJson = Literal["drain", "charge_hold", "charge_input"]
DisconnectStream = Literal["charge_seen", "drain", "charge_input", "charge_hold"]
ExhaustedStream = Literal["finish", "cut", "reserve_max"]
HoldOutput = Literal["fixed", "expected"]
MissingUsage = Literal["counted", "hold"]
Undrained = Literal["hold", "expected", "input"]
ExpireCharges = Literal["checkpoint", "hold", "nothing"]
InsufficientStatus = Literal[402, 429]


UNSTATED: Final = MediaTokens()


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """A policy with every setting filled in. `PolicySection` describes the fields."""

    hold_output: HoldOutput
    hold_output_tokens: int
    # Measured (docs/explanation/accuracy.md): a larger share takes longer to use up a budget, a smaller
    # one cuts more streams at its end. So does a shorter wait, but output during a longer one may go unpaid.
    hold_output_share: float = 0.88
    least_hold_output_tokens: int = 48
    extend_at: float
    grow_wait_ms: int = 150
    clamp: bool = False
    hold_ttl_ms: int = 60_000
    checkpoint_interval_ms: int
    template_overhead_tokens: int = 16
    reference_tokens: int | None = None
    media_tokens: MediaTokens = UNSTATED
    default_max_output_tokens: int | None = None
    bytes_per_token: int = 4
    disconnect_json: DisconnectJson
    disconnect_stream: DisconnectStream
    drain_max_ms: int = 30_000
    undrained: Undrained
    exhausted_stream: ExhaustedStream
    missing_usage: MissingUsage
    expire_charges: ExpireCharges
    ledger_unavailable: Literal["closed"] = "closed"
    unpriced_models: Literal["refuse"] = "refuse"
    insufficient_status: InsufficientStatus = 402
    answer_cost_header: bool = True
    keep_answers: bool = False

    def flow(self) -> Policy:
        """Convert to the flow's policy. `reserve_max` holds the full estimate, `clamp` the
        lowered one."""
        whole_bound = self.exhausted_stream == "reserve_max" or self.clamp
        return Policy(
            hold_output_tokens=None if whole_bound else self.hold_output_tokens,
            extend_at=self.extend_at,
            hold_ttl_ms=self.hold_ttl_ms,
            checkpoint_interval_ms=self.checkpoint_interval_ms,
            default_max_output_tokens=self.default_max_output_tokens,
            disconnect_json=self.disconnect_json,
            disconnect_stream=self.disconnect_stream,
            drain_max_ms=self.drain_max_ms,
            undrained=self.undrained,
            exhausted_stream="cut" if self.exhausted_stream != "finish" else "finish",
            missing_usage=self.missing_usage,
            expire_charges=self.expire_charges,
            insufficient_status=self.insufficient_status,
            answer_cost_header=self.answer_cost_header,
            bytes_per_token=self.bytes_per_token,
            expected_share=self.hold_output_share if self.hold_output == "expected" else None,
            least_hold_output_tokens=self.least_hold_output_tokens,
            clamp=self.clamp,
            grow_wait_ms=self.grow_wait_ms,
            keep_answers=self.keep_answers,
        )


PRESETS: Final[Mapping[Preset, Knobs]] = {
    # Everything served is paid for, at the price of larger holds.
    "strict": Knobs(
        hold_output="fixed",
        hold_output_tokens=16_384,
        extend_at=0.5,
        checkpoint_interval_ms=1000,
        disconnect_json="drain",
        disconnect_stream="drain",
        undrained="hold",
        exhausted_stream="reserve_max",
        missing_usage="hold",
        expire_charges="hold",
    ),
    # A funded customer is not refused because of an unused maximum; an exhausted one is cut.
    "balanced": Knobs(
        hold_output="expected",
        hold_output_tokens=4096,
        extend_at=0.5,
        checkpoint_interval_ms=5000,
        disconnect_json="drain",
        disconnect_stream="charge_seen",
        undrained="expected",
        exhausted_stream="cut",
        missing_usage="counted",
        expire_charges="checkpoint",
    ),
    # Edge cases are the operator's loss: responses finish, and the wallet may go into overdraft.
    "generous": Knobs(
        hold_output="expected",
        hold_output_tokens=1024,
        hold_output_share=0.95,
        extend_at=0.75,
        checkpoint_interval_ms=10_000,
        disconnect_json="drain",
        disconnect_stream="charge_seen",
        undrained="input",
        exhausted_stream="finish",
        missing_usage="counted",
        expire_charges="nothing",
    ),
}


class PolicySection(Section):
    """What the gate does in edge cases: a preset, and the values that differ from it."""

    preset: Preset | None = field("The values to start from; `balanced` if absent.", "strict", None)
    hold_output: HoldOutput | None = field(
        "What a stream holds at its start: always `hold_output_tokens` (`fixed`), or the usual "
        "length of responses to this customer from this model (`expected`), once enough have "
        "ended. Expected sizes are a policy, never a bound.",
        "expected",
        None,
    )
    hold_output_tokens: Tokens | None = field(
        "Output tokens that a stream holds at its start, in addition to the input. The hold then "
        "grows by the same amount each time. Requests without streaming hold their full estimate.",
        4096,
        None,
    )
    hold_output_share: Share | None = field(
        "With `hold_output: expected`: share of responses that fit into the first hold.",
        0.88,
        None,
    )
    least_hold_output_tokens: Tokens | None = field(
        "When the credit is nearly exhausted: the least output that a stream may start with, or "
        "that `clamp` leaves.",
        48,
        None,
    )
    grow_wait_ms: Milliseconds | None = field(
        "How long a stream whose hold is used up pauses for credit that other requests hold.",
        150,
        None,
    )
    clamp: Switch | None = field(
        "Hold the full estimate, and if the credit does not cover it, lower the output maximum to"
        " what it covers; `x-credits-max-tokens` reports the new maximum.",
        False,
        None,
    )
    extend_at: Share | None = field(
        "Share of the last step of held output at which a running stream requests the next step.",
        0.5,
        None,
    )
    hold_ttl_ms: Annotated[int, Whole(5000, 3_000_000)] | None = field(
        "How long a hold lives without being extended by its worker.", 60_000, None
    )
    checkpoint_interval_ms: Annotated[int, Whole(100, 600_000)] | None = field(
        "How often a running stream stores a checkpoint of its usage in the ledger and extends "
        "its hold. What a killed worker served after the last checkpoint is the operator's loss.",
        5000,
        None,
    )
    template_overhead_tokens: Annotated[int, Whole(0, 10_000)] | None = field(
        "Input tokens added per message and per request for the chat template.", 16, None
    )
    media_tokens: Mapping[MediaKind, Tokens] | None = field(
        "Input tokens held per item of each kind of media: `image`, `document` (pages, such as a "
        "PDF), `video`, `audio`. Without a number, an image in the body is held at 16,384 and "
        "audio in the body by its bytes. Everything else, such as a link or file id, is held at "
        "the model's `context_tokens`, and refused if the model has none.",
        {"image": 1600, "document": 100_000},
        None,
    )
    reference_tokens: Tokens | None = field(
        "Input tokens held for each kind of media that `media_tokens` does not name, and for each"
        " result of a hosted tool (default 16,384).",
        16_384,
        None,
    )
    default_max_output_tokens: Tokens | None = field(
        "Output bound of a request that names none; default: the model's maximum.",
        4096,
        None,
    )
    bytes_per_token: Annotated[int, Whole(1, 16)] | None = field(
        "Bytes counted as one input token if the provider reports nothing.", 4, None
    )
    disconnect_json: DisconnectJson | None = field(
        "The caller leaves before a JSON response: read on for its usage (`drain`), charge the "
        "hold, or charge the input.",
        "drain",
        None,
    )
    disconnect_stream: DisconnectStream | None = field(
        "The caller leaves a stream: charge what was delivered, read on (`drain`), charge the "
        "input, or charge the hold. A model with `hidden_output` drains or charges the hold.",
        "charge_seen",
        None,
    )
    drain_max_ms: Milliseconds | None = field("How long `drain` reads on.", 30_000, None)
    undrained: Undrained | None = field(
        "The caller left before a JSON response, and it did not arrive within `drain_max_ms`: "
        "charge the hold, the usual usage of this customer's responses from this model "
        "(`expected`; the hold while too few have ended), or the input.",
        "expected",
        None,
    )
    exhausted_stream: ExhaustedStream | None = field(
        "A stream's hold cannot grow: let the stream finish into overdraft (`finish`), end it "
        "with an error (`cut`), or avoid the case by holding the full estimate at the start "
        "(`reserve_max`).",
        "cut",
        None,
    )
    missing_usage: MissingUsage | None = field(
        "A response reports no usage: charge what the gate counted, or the hold.", "counted", None
    )
    expire_charges: ExpireCharges | None = field(
        "A worker died: charge the last checkpoint (at least the input), the hold, or nothing.",
        "checkpoint",
        None,
    )
    ledger_unavailable: Literal["closed"] | None = field(
        "The ledger cannot be reached: refuse with 503.", "closed", None
    )
    unpriced_models: Literal["refuse"] | None = field(
        "A model without a price is refused.", "refuse", None
    )
    insufficient_status: Annotated[InsufficientStatus, BeforeValidator(read_whole)] | None = field(
        "Status of a refusal for lack of credit; OpenAI uses 429.", 402, None
    )
    answer_cost_header: Switch | None = field(
        "Settle JSON responses before sending them, so that they can carry `x-credits-cost`.",
        True,
        None,
    )
    keep_answers: Switch | None = field(
        "Keep JSON responses of at most 64 KiB for a day, so that a repeat with the same "
        "`Idempotency-Key` gets the recorded response instead of 409. Streams are not kept. "
        "Callers' data is then stored on your disk.",
        True,
        None,
    )

    def resolve(self, base: Knobs) -> Knobs:
        """Fill in every setting: from this section, else from its preset, else from `base`."""
        start = PRESETS[self.preset] if self.preset else base
        mine = {f.name: getattr(self, f.name) for f in fields(Knobs)}
        if self.media_tokens is not None:
            stated = {str(kind): tokens for kind, tokens in self.media_tokens.items()}
            mine["media_tokens"] = replace(start.media_tokens, **stated)
        return replace(start, **{name: value for name, value in mine.items() if value is not None})
