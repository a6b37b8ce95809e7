"""The upper bound of a request: what it can cost at most, as quantities. The scripts rate it.

Invariants: a token has at least one byte of decoded text, so bytes plus the template bound the input;
the output is bounded by what the caller allows, else by the model. The most expensive
class that could apply is assumed. Only then is a reservation a promise.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from gateway.dialects.base import BadRequest, RequestFacts, Unmeasured
from gateway.dialects.fields import MAX_COUNT, SCOPED
from gateway.domain.usage import DEFAULT_TIER, TOKEN_UNITS, Usage, in_tier, usage_in_tier
from gateway.flow.catalog import Model, Policy

DEFAULT_TIERS: Final = (DEFAULT_TIER,)


@dataclass(slots=True)  # not frozen: each request makes one, and frozen ones cost more
class Estimate:
    """Quantities in tokens. Never changed.

    input:        upper bound of the input
    input_count:  the request's own input as counted when the provider reports nothing
    output:       upper bound over all choices
    held_output:  how much of it is held: of a stream a part at first
    step:         how much more a running stream asks for at a time
    lowered:      the output maximum of each choice, where the gate has lowered the caller's
    other_most:   upper bound of what is neither: images, bytes, seconds, …
    other_certain: what of it the request alone decides
    tiers:        service tiers that may serve it; the first where the answer does not say
    text_only:    tokens of text in the default tier are all that is held
    """

    input: int
    input_count: int
    output: int
    held_output: int
    audio: bool
    images: bool
    tool_calls: int
    step: int = 1
    lowered: int | None = None
    other_most: Usage = field(default_factory=dict)
    other_certain: Usage = field(default_factory=dict)
    tiers: tuple[str, ...] = DEFAULT_TIERS
    text_only: bool = False

    def hold_vector(self, model: Model) -> bytes:
        """What the hold must cover, packed for the ledger."""
        return model.prices.vector(self.held_usage(model))

    def reserve_vectors(self, model: Model, policy: Policy) -> tuple[bytes, bytes]:
        """What the hold must cover, and what an expiry charges before the first extension, packed for
        the ledger."""
        if self.text_only and policy.expire_charges == "checkpoint":
            return model.token_vectors.reserved(self.input, self.held_output, self.input_count)
        first = self.checkpoint_usage(model, policy, self.counted_usage(0))
        return self.hold_vector(model), model.prices.vector(first)

    def held_usage(self, model: Model) -> Usage:
        """What the hold must cover."""
        usage = model.prices.worst_case(
            input_tokens=self.input,
            output_tokens=self.held_output,
            tool_calls=self.tool_calls,
            audio=self.audio,
            images=self.images,
            tiers=self.tiers,
        )
        if not self.other_most:
            return usage
        usage = dict(usage)
        for unit, quantity in self.other_most.items():
            for tier in self.tiers:
                named = in_tier(unit, tier)
                usage[named] = usage.get(named, 0) + quantity
        return usage

    def counted_usage(self, output: int) -> Usage:
        """What is charged where only the gate has counted."""
        usage = {"input": self.input_count, "output": output, "request": 1, **self.other_certain}
        return usage_in_tier(usage, self.tiers[0])

    def checkpoint_usage(self, model: Model, policy: Policy, seen: Usage) -> Usage:
        """What the ledger charges if this gate dies: by policy what was seen, the hold, or nothing."""
        match policy.expire_charges:
            case "checkpoint":
                return seen
            case "hold":
                return self.held_usage(model)
            case "nothing":
                return {}

    @property
    def most(self) -> int:
        """Quantities at most: tokens of input and output, and all else."""
        return self.input + self.output + sum(self.other_most.values())

    @property
    def tokens(self) -> int:
        """Tokens held, for limits that count tokens."""
        tokens = self.input + self.held_output
        for unit, quantity in self.other_most.items():
            if unit in TOKEN_UNITS:
                tokens += quantity
        return tokens


FREE_ESTIMATE: Final = Estimate(0, 0, 0, 0, False, False, 0)
"""Of a request that costs 0, whatever is in it."""


def estimate_request(
    facts: RequestFacts, model: Model, policy: Policy, expected_output: int | None = None
) -> Estimate:
    """Estimate one request. Raises BadRequest when it asks for more than the model can give.

    expected_output: what a stream is expected to need, if that is known: held at first
    """
    if model.free:
        return FREE_ESTIMATE
    per_choice = facts.output_bound
    if per_choice is None:
        default = default_output(model, policy) if facts.limits_output else None
        per_choice = default or model.max_output_tokens
    elif per_choice > model.max_output_tokens:
        raise BadRequest(
            f"This model produces at most {model.max_output_tokens} tokens, but {per_choice} were"
            f" asked for. Lower the maximum to {model.max_output_tokens} or less.",
            param="max_tokens",
        )
    output = per_choice * facts.choices
    step = output
    if facts.stream and policy.hold_output_tokens is not None:
        step = policy.hold_output_tokens
        if expected_output is not None:
            step = max(expected_output, policy.least_hold_output_tokens)
    held = min(output, step)
    if model.context_tokens is None and facts.unmeasured is None:
        bound = facts.input_bound
        own = bound if facts.input_own is None else facts.input_own
    else:
        bound, own = _input_bounds(facts, model)
    tiers = model.chosen_tiers if facts.service_tier is None else _tiers(facts, model)
    text_only = tiers == DEFAULT_TIERS and not (
        facts.most or facts.tool_calls or facts.audio or facts.images
    )
    return Estimate(
        bound,
        -(-own // policy.bytes_per_token),
        output,
        held,
        facts.audio,
        facts.images,
        facts.tool_calls,
        max(1, step),
        None,
        facts.most,
        facts.certain,
        tiers,
        text_only,
    )


def unbounded_estimate(facts: RequestFacts, model: Model, policy: Policy) -> Estimate:
    """What is known of a request that cannot be estimated, and still runs in shadow mode: what
    it was asked for, and what it has itself. No hold can rest on it."""
    own = facts.input_bound if facts.input_own is None else facts.input_own
    output = (facts.output_bound or model.max_output_tokens) * facts.choices
    return Estimate(
        facts.input_bound,
        -(-own // policy.bytes_per_token),
        output,
        output,
        facts.audio,
        facts.images,
        facts.tool_calls,
        other_most=facts.most,
        other_certain=facts.certain,
    )


def _input_bounds(facts: RequestFacts, model: Model) -> tuple[int, int]:
    """The bound of the input, and of the request's own part of it. Raises BadRequest when neither the
    body nor the configuration bounds it."""
    bound = facts.input_bound
    own = bound if facts.input_own is None else facts.input_own
    if model.context_tokens is None:
        if facts.unmeasured is not None:
            raise _unbounded(facts.unmeasured, model)
        return bound, own
    context = model.context_tokens * facts.readings
    if facts.unmeasured is not None:
        if facts.readings > MAX_COUNT:
            raise BadRequest(
                f"`{facts.unmeasured.param}` would be read {facts.readings} times; with media whose"
                f" tokens the request does not bound, {MAX_COUNT} prompts or hosted calls are the most.",
                param=facts.unmeasured.param,
            )
        return context, context
    return min(bound, context), min(own, context)


def _unbounded(unmeasured: Unmeasured, model: Model) -> BadRequest:
    """What to raise for something whose tokens nothing bounds."""
    if unmeasured.kind == "stored":
        what, also = "what the provider keeps", ""
    else:
        what = f"{unmeasured.kind} by reference or in pages"
        also = f", or `media_tokens.{unmeasured.kind}` in the policy"
    return BadRequest(
        f"`{unmeasured.param}` is {what}, whose tokens the request does not bound. Send text or an"
        f" inline image, or ask the operator to set `context_tokens` of the model `{model.name}`{also}.",
        param=unmeasured.param,
    )


def scope_of(customer_id: str) -> str:
    """What is put in front of a customer's names at the provider: stable, short, and it does not tell
    who the customer is."""
    return hashlib.sha256(customer_id.encode()).hexdigest()[:16]


SCOPED_FIELDS: Final = SCOPED | {"metadata"}
"""Fields of a body that are names which share state at the provider, or hold one."""


def _tiers(facts: RequestFacts, model: Model) -> tuple[str, ...]:
    """The service tiers that may serve the request. Raises BadRequest for one without a price."""
    assert facts.service_tier is not None
    if facts.service_tier in model.prices.service_tiers:
        return (facts.service_tier,)
    known = ", ".join(f'"{tier}"' for tier in ("auto", *model.prices.service_tiers))
    raise BadRequest(
        f"This `service_tier` has no price for the model `{model.name}`. Send one of {known}, or"
        " leave it out.",
        param="service_tier",
    )


def default_output(model: Model, policy: Policy) -> int | None:
    """The output maximum of a request that names none; None where the policy has no default."""
    default = policy.default_max_output_tokens
    return None if default is None else min(default, model.max_output_tokens)
