"""A request at its end, and what can be read off it. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from gateway.dialects.base import AnswerFacts
from gateway.domain.usage import Usage, UsageSource
from gateway.flow.catalog import Model, Policy
from gateway.flow.estimate import Estimate
from gateway.flow.reservation.progress import Stage
from gateway.flow.reservation.seen_usage import NOTHING_MISSING, is_usable, missing_units

Verb = Literal["settle", "release"]

ABSURD: Final = "usage_absurd"
MISSING: Final = "usage_missing"
UNREADABLE: Final = "answer_unreadable"
UNDRAINED: Final = "undrained"
_INCOMPLETE: Final[frozenset[Stage]] = frozenset({"unsent", "sent", "killed"})
"""Ends that are the upstream's fault or the operator's act: what was not delivered is not charged,
whatever the policy says about clients that leave."""


@dataclass(slots=True)
class Ended:
    """A request at its end. Never changed.

    status:          the upstream's, 0 when its response head has not arrived
    streaming:       what the upstream responded, else what the client asked for
    passed_output:   the most output that can have been passed on
    learned_output:  gives the output that responses of this model to this customer usually have;
                     None while too few have ended
    """

    stage: Stage
    status: int
    streaming: bool
    facts: AnswerFacts
    estimate: Estimate
    model: Model
    policy: Policy
    passed_output: float
    learned_output: Callable[[], int | None]


@dataclass(slots=True)
class Outcome:
    """What the ledger is to do. flags: what was odd, for the event."""

    verb: Verb
    usage: Usage
    source: UsageSource | None
    flags: tuple[str, ...] = ()


class Reading:
    """What the rows ask about a request that has ended.

    failed:   it broke, was refused by the upstream, or reports an error of its own
    usable:   usage was reported, and is within reason for this request
    reported: the usable reports are the provider's final figures
    left_by:  the policy for clients that leave, where this client has left; else ""
    missing:  what is priced and was neither reported nor counted
    """

    __slots__ = ("ended", "failed", "left_by", "missing", "reported", "usable")

    def __init__(self, ended: Ended) -> None:
        facts, policy = ended.facts, ended.policy
        self.ended = ended
        self.failed = ended.stage in _INCOMPLETE or ended.status >= 400 or facts.error
        self.usable = is_usable(facts, ended.estimate)
        self.reported = self.usable and facts.usage_final
        left = ended.stage == "left" and not self.reported
        by = policy.disconnect_stream if ended.streaming else policy.disconnect_json
        self.left_by: str = by if left else ""
        self.missing = NOTHING_MISSING if left else missing_units(ended.model, ended, self.usable)

    @property
    def delivered(self) -> bool:
        """Whether any of the response can have reached the client."""
        ended, facts = self.ended, self.ended.facts
        if ended.status >= 400 or ended.stage == "unsent":
            return False
        seen = facts.unreadable is not None or facts.counted_output > 0 or facts.hosted_calls > 0
        return seen and (ended.streaming or ended.stage == "complete")

    @property
    def undrained(self) -> bool:
        """Whether the policy wants the rest of a response that cannot be read on."""
        return self.left_by == "drain" and not self.ended.streaming

    @property
    def report_flags(self) -> tuple[str, ...]:
        """What is odd about the reports. A figure that is impossible, and that no other report
        gives, is absurd; one that is merely absent is not."""
        facts = self.ended.facts
        flags = facts.flags if self.usable else ()
        unreasonable = facts.usage is not None and not self.usable
        incomplete = not (facts.input_reported and facts.output_reported)
        if unreasonable or (incomplete and facts.usage_problem is not None):
            return (*flags, ABSURD)
        return flags
