"""Service tiers through the official SDKs: which price a request is held and charged at, and what
its event says. The simulated provider answers in the tier that the test has it say.
"""

from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.domain.events import Event
from tests.e2e.test_sdks import anthropic_client, openai_client
from tests.support.gate import Gate, digest, running_gate
from tests.support.upstreams import Sim

PRICES = {
    "input": "1.00",
    "output": "4.00",
    "service_tiers": {
        "flex": {"input": "0.50", "output": "2.00"},
        "priority": {"input": "2.00", "output": "8.00", "per_request": "0.000001"},
    },
}
COSTS = {
    "input": "0.10",
    "output": "0.40",
    "service_tiers": {
        "flex": {"input": "0.05", "output": "0.20"},
        "priority": {"input": "0.20", "output": "0.80"},
    },
}
MODEL: dict[str, Any] = {
    "upstream": "sim",
    "prices": PRICES,
    "costs": COSTS,
    "max_output_tokens": 100,
}
MODELS = {
    "small": MODEL,
    "chosen": {**MODEL, "auto_service_tiers": ["default", "priority"]},
    "plain": {**MODEL, "prices": {"input": "1.00", "output": "4.00"}, "costs": None},
}
OWN_KEY = "sk-test-own"
CUSTOMERS = {
    "acme": {
        "grants": [{"name": "start", "amount": "10.00"}],
        "keys": [{"id": "k_acme", "sha256": digest("sk-test-customer")}],
    },
    "own": {
        "grants": [{"name": "start", "amount": "10.00"}],
        "keys": [{"id": "k_own", "sha256": digest(OWN_KEY)}],
        "prices": {"chosen": {"input": "3.00", "output": "3.00"}},
    },
}


@pytest.fixture
async def tiers(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    """A gate with a model that has three prices, one whose tier the provider chooses, a plain one."""
    models = {
        name: {field: value for field, value in model.items() if value is not None}
        for name, model in MODELS.items()
    }
    async with running_gate(
        tmp_path, valkey_socket, sim.url, models=models, customers=CUSTOMERS
    ) as running:
        yield running


def said(tier: str) -> list[Any]:
    """Ten tokens in and five out, by this tier. Always as long: the hold depends on it."""
    served = f" tier={tier}" if tier else ""
    return [
        {
            "role": "user",
            "content": f"{'Hello':<{30 - len(served)}}\nsim: input=10 tokens=5{served}",
        }
    ]


TIERS: list[tuple[Any, str, str, int, int]] = [
    # asked for, served in, charged in, nano-credits charged, nano-credits of cost
    ("default", "default", "default", 30_000, 3_000),
    ("flex", "flex", "flex", 15_000, 1_500),
    ("priority", "priority", "priority", 61_000, 6_000),
    ("priority", "default", "default", 30_000, 3_000),  # not served so, not charged so
    ("flex", "default", "flex", 15_000, 1_500),  # the caller asked for the cheap one
    ("flex", "priority", "flex", 15_000, 1_500),
    ("default", "scale", "default", 30_000, 3_000),  # a tier without a price
    ("auto", "default", "default", 30_000, 3_000),
    ("auto", "priority", "default", 30_000, 3_000),  # `auto` was sent as `default`
    ("priority", "", "priority", 61_000, 6_000),  # an answer that does not say
    ("priority", "auto", "priority", 61_000, 6_000),  # nor does one that echoes this
]


async def test_a_request_is_charged_in_the_tier_that_served_it_and_never_above_what_it_asked_for(
    tiers: Gate, subtests: pytest.Subtests
) -> None:
    chat = openai_client(tiers).chat.completions
    for stream, (asked, served, charged_in, nano, cost) in product((False, True), TIERS):
        with subtests.test(f"{asked=} {served=} {stream=}"):
            before_nano = await tiers.settled_nano()
            answer = await chat.create(
                model="small", service_tier=asked, messages=said(served), stream=stream
            )
            if stream:
                [_ async for _ in answer]
            event = await last_event(tiers)
            assert (event.amount_nano, event.cost_nano) == (nano, cost)
            assert (event.usage["input"], event.usage["output"]) == (10, 5)
            assert event.facts["service_tier"] == charged_in
            expected = asked if asked != "auto" else "default"
            assert ("service_tier_changed" in event.facts["flags"]) == (
                served not in ("", "auto", expected)
            )
            other = None if served in ("", "auto", charged_in) else served
            assert event.facts.get("response_service_tier") == other
            assert await tiers.settled_nano() - before_nano == nano
            assert await tiers.held_nano() == 0


async def last_event(gate: Gate) -> Event:
    """The newest event, once all has settled."""
    await gate.settle_all()
    return (await gate.events())[-1]


async def test_the_hold_is_at_the_price_of_what_was_asked_for(tiers: Gate) -> None:
    held = {}
    for tier in ("default", "flex", "priority"):
        answer = await tiers.chat(said("")[0]["content"], service_tier=tier, max_tokens=10)
        held[tier] = float(answer.headers["x-credits-reserved"])
    assert held["flex"] == pytest.approx(held["default"] / 2)
    assert held["priority"] == pytest.approx(held["default"] * 2 + 0.000001)


async def test_what_the_provider_may_choose_is_held_at_the_dearest_and_charged_as_served(
    tiers: Gate,
) -> None:
    dear = await tiers.chat(said("priority")[0]["content"], model="chosen", max_tokens=10)
    cheap = await tiers.chat(said("default")[0]["content"], model="chosen", max_tokens=10)
    mute = await tiers.chat(said("")[0]["content"], model="chosen", max_tokens=10)
    assert dear.headers["x-credits-reserved"] == cheap.headers["x-credits-reserved"]
    plain = await tiers.chat(said("default")[0]["content"], max_tokens=10)
    dearer = float(cheap.headers["x-credits-reserved"])
    assert dearer > 2 * float(plain.headers["x-credits-reserved"])
    await tiers.settle_all()
    events = {event.facts["request_id"]: event for event in await tiers.events()}
    charges = [
        (each.amount_nano, each.facts["service_tier"], each.facts["flags"])
        for each in (events[answer.headers["x-request-id"]] for answer in (dear, cheap, mute))
    ]
    assert charges == [(61_000, "priority", []), (30_000, "default", []), (30_000, "default", [])]


async def test_an_override_is_a_whole_price_so_its_other_tiers_are_not_to_be_had(
    tiers: Gate,
) -> None:
    client = openai_client(tiers, OWN_KEY)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model="chosen", service_tier="priority", messages=said("priority")
        )
    assert '"auto", "default"' in refused.value.message
    await client.chat.completions.create(model="chosen", messages=said("priority"))
    await tiers.settle_all()
    [event] = await tiers.events("own")
    assert event.amount_nano == 45_000
    assert event.facts["response_service_tier"] == "priority"
    assert event.facts["flags"] == ["service_tier_changed"]


async def test_a_tier_without_a_price_is_refused_with_those_that_have_one(
    tiers: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    for tier in ("scale", "performance", "Flex", "turbo", "", 7, ["flex"]):
        with subtests.test(repr(tier)):
            answer = await tiers.chat("Hello", service_tier=tier)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert error["param"] == "service_tier"
            if isinstance(tier, str):
                assert 'Send one of "auto", "default", "flex", "priority"' in error["message"]
    plain = await tiers.chat("Hello", model="plain", service_tier="flex")
    assert plain.status_code == 400
    assert '"auto", "default", or leave it out' in plain.json()["error"]["message"]
    assert sim.provider.served.posts == 0
    assert await tiers.events() == []


async def test_responses_and_embeddings_say_their_tier_too(tiers: Gate) -> None:
    client = openai_client(tiers)
    await client.responses.create(
        model="small",
        service_tier="flex",
        input="Hello\nsim: input=10 tokens=5 tier=flex",
        max_output_tokens=20,
    )
    event = await tiers.one_event()
    assert (event.amount_nano, event.facts["service_tier"]) == (15_000, "flex")


ANTHROPIC_TIERS: list[tuple[str, Any, str, int, str]] = [
    # model, asked for, served in, nano-credits charged, charged in
    ("small", "auto", "standard", 30_000, "default"),
    ("small", "standard_only", "standard", 30_000, "default"),
    ("small", "auto", "priority", 30_000, "default"),
    ("chosen", "auto", "priority", 61_000, "priority"),
    ("chosen", "standard_only", "standard", 30_000, "default"),
]


async def test_anthropic_s_words_for_the_same(tiers: Gate, subtests: pytest.Subtests) -> None:
    messages = anthropic_client(tiers).messages
    for stream, (model, asked, served, nano, charged_in) in product((False, True), ANTHROPIC_TIERS):
        with subtests.test(f"{model} {asked=} {served=} {stream=}"):
            wanted: dict[str, Any] = {"model": model, "max_tokens": 20, "service_tier": asked}
            answer = await messages.create(**wanted, messages=said(served), stream=stream)
            if stream:
                [_ async for _ in answer]
            event = await last_event(tiers)
            assert (event.amount_nano, event.facts["service_tier"]) == (nano, charged_in)
            assert ("service_tier_changed" in event.facts["flags"]) == (
                served == "priority" and charged_in == "default"
            )


async def test_a_key_sees_what_it_may_ask_for(tiers: Gate) -> None:
    mine = {model.id: model async for model in openai_client(tiers).models.list()}
    assert mine["small"].model_extra == {"service_tiers": ["auto", "default", "flex", "priority"]}
    assert not mine["plain"].model_extra
    own = await openai_client(tiers, OWN_KEY).models.retrieve("chosen")
    assert not own.model_extra
