"""The steps of one request's story, in the order in which they happened."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.admin.console.timeline import Delivery, Step, steps_of
from gateway.domain.events import Event
from gateway.ledger.codec.refusals import RefusedRequest
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.why import EventTrace, PriceLine, Story

ID = "0123456789ab" + 20 * "0"
CREDIT = 10**9
SETTLED = Event(
    "settle",
    f"{ID}:settle",
    *(0, 1, 1),
    5000,
    "acme",
    amount_nano=2 * CREDIT,
    balance_nano=8 * CREDIT,
    estimated_amount_nano=3 * CREDIT,
    allocations=((1, 2 * CREDIT),),
    usage={"input": 10},
    facts={"usage_source": "provider_reported", "flags": ["usage_missing"]},
)
STORY = Story(ID, None, None, None, (), {1: "start"})


def story(*events: Event, lines: tuple[PriceLine, ...] = ()) -> Story:
    return replace(STORY, events=tuple(EventTrace(event, None, lines) for event in events))


def only(steps: list[Step], word: str) -> Step:
    [found] = [step for step in steps if word in step.title]
    return found


def test_a_served_request_is_held_answered_and_settled() -> None:
    steps = steps_of(story(SETTLED), {})
    settled = steps[-1]
    assert "3 credits held" in steps[0].title
    assert settled.title == "Settled: 2 credits charged"
    assert (settled.tone, settled.refundable) == ("ok", True)
    assert settled.paid == [("start", "2")]
    facts = dict(settled.facts)
    assert facts["flags"] == "usage missing"
    assert facts["usage"].endswith("as the provider reported it")
    assert facts["balance after"] == "8.00"


def test_what_was_given_back_and_charged_again_says_so() -> None:
    facts = {"corrects": SETTLED.event_id, "reason": "late", "actor": "user:ann"}
    made = replace(SETTLED, kind="adjust", allocations=(), facts=facts)
    refund = replace(made, event_id="refund:1", amount_nano=CREDIT)
    given = replace(made, event_id="adjust:1", amount_nano=CREDIT)
    charged = replace(made, event_id="adjust:2", amount_nano=-CREDIT)
    steps = steps_of(story(SETTLED, refund, given, charged), {})
    assert [step.title for step in steps[-3:]] == [
        "Refunded: 1 credits",
        "Given back: 1 credits",
        "Charged in addition: 1 credits",
    ]
    assert dict(steps[-1].facts)["by"] == "user:ann"


@pytest.mark.parametrize(
    ("kind", "title", "tone"),
    [
        ("release", "Released: nothing was charged", ""),
        ("expire", "Expired: the last checkpoint was charged", "warn"),
        ("settle_late", "Settled late: the difference was charged", "warn"),
    ],
)
def test_other_ends_are_named(kind: Any, title: str, tone: str) -> None:
    ended = replace(SETTLED, kind=kind, amount_nano=0 if kind == "release" else CREDIT)
    step = steps_of(story(ended), {})[-1]
    assert (step.title, step.tone, step.refundable) == (title, tone, kind != "release")


def test_lines_that_do_not_add_up_to_the_charge_are_pointed_out() -> None:
    line = PriceLine("input", 10, 200_000_000_000)
    assert steps_of(story(SETTLED, lines=(line,)), {})[-1].adds_up is True
    other = replace(SETTLED, amount_nano=CREDIT)
    assert steps_of(story(other, lines=(line,)), {})[-1].adds_up is False


def test_each_event_has_its_own_deliveries() -> None:
    waiting = Delivery("events", "waiting")
    step = steps_of(story(SETTLED), {SETTLED.event_id: [waiting], "other": []})[-1]
    assert step.deliveries == [waiting]
    assert step.event_id == SETTLED.event_id


def test_a_refused_request_says_what_it_could_have_cost() -> None:
    refused = RefusedRequest(
        ID, "insufficient_credits", 402, "broke", estimate_nano=5 * CREDIT, available_nano=0
    )
    [step] = steps_of(replace(STORY, refused=NotedRefusal(refused, 4000)), {})
    assert "insufficient credits" in step.title
    facts = dict(step.facts)
    assert (facts["answered"], facts["could cost up to"], facts["available"]) == (
        "402",
        "5.00",
        "0.00",
    )
    assert "key" not in facts
