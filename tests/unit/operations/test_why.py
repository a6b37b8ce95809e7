"""why: the story of a request at each station of its life."""

from pathlib import Path

import pytest
import redis.asyncio

from gateway.cli.output import err
from gateway.cli.why import render
from gateway.domain.pricing import Rate, Tier, compile_prices, per_unit
from gateway.exporter.main import Exporter
from gateway.ledger.codec.refusals import RefusedRequest
from gateway.ledger.refusals import NotedRefusal, RefusalLog, find_refusal
from gateway.operations.documents import story_document
from gateway.operations.why import PriceLine, Sources, Story, explain
from tests.support.bank import Bank
from tests.support.stores import sqlite_access, sqlite_sink


@pytest.fixture
def bank(valkey: redis.asyncio.Redis) -> Bank:
    return Bank(valkey)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


async def ask(bank: Bank, path: Path, request_id: str) -> Story:
    async def rates(price_version: str) -> dict[str, Rate] | None:
        found = await bank.accounts.prices.find(price_version)
        return found[0] if found else None

    async def refusal(wanted: str) -> NotedRefusal | None:
        return await find_refusal(bank.client, wanted)

    with sqlite_access(path).open_or_empty() as store:
        sources = Sources(bank.audit, bank.outbox, store, refusal, rates)
        return await explain(sources, request_id)


async def export(bank: Bank, path: Path) -> None:
    exporter = Exporter(bank.outbox, bank.operator, sqlite_sink(path))
    exporter.begin()
    await exporter.drain(10)


def shown(story: Story) -> str:
    with err.capture() as capture:
        err.print(render(story), soft_wrap=True)
    return capture.get()


async def test_nothing_is_known_of_a_stranger(bank: Bank, path: Path) -> None:
    story = await ask(bank, path, "nobody")
    assert story.decision == "unknown"


async def test_a_running_request_shows_its_hold(bank: Bank, path: Path) -> None:
    await bank.open("acme")
    hold = await bank.reserve("acme", "r1")
    story = await ask(bank, path, "r1")
    assert story.decision == "allowed"
    assert story.hold is not None
    assert story.hold.held_nano == hold.held_nano == 10 * 2 + 5500
    text = shown(story)
    assert "holds 0.00000552 credits for 10 input, 1000 output" in text
    assert "0.00000552 on purchase" in text
    assert "still running" in text


async def test_a_settled_request_waits_in_the_outbox_and_then_lies_in_the_store(
    bank: Bank, path: Path
) -> None:
    await bank.open("acme")
    await bank.spend("acme", "r1", output=7)
    waiting = await ask(bank, path, "r1")
    assert [told.stored_at_ms for told in waiting.events] == [None]
    assert "it waits in the outbox" in shown(waiting)
    await export(bank, path)
    story = await ask(bank, path, "r1")
    ((told),) = story.events
    assert told.stored_at_ms is not None
    assert told.event == waiting.events[0].event
    assert told.lines == (PriceLine("input", 10, 2000), PriceLine("output", 7, 5500))
    assert told.event.amount_nano == story.charged_nano == 20 + 39  # 38.5 rounded up once
    assert told.adds_up is True
    assert story.grants == {1: "purchase"}
    text = shown(story)
    assert "settle: 0.000000059 credits" in text
    assert "0.000000059 on purchase" in text
    assert "0.0055 /M" in text
    assert "in the store since" in text
    assert "held 0.00000552 credits" in text


async def test_a_released_request_costs_nothing(bank: Bank, path: Path) -> None:
    await bank.open("acme")
    await bank.release("acme", await bank.reserve("acme", "r1"))
    story = await ask(bank, path, "r1")
    assert [told.event.kind for told in story.events] == ["release"]
    assert story.charged_nano == 0
    assert "status 500" in shown(story)


async def test_an_expiry_and_its_late_settle_are_one_story(bank: Bank, path: Path) -> None:
    await bank.open("acme")
    hold = await bank.reserve("acme", "r1", ttl_ms=1000)
    await bank.expire("acme", hold)
    await bank.settle("acme", hold, output=100)
    story = await ask(bank, path, "r1")
    assert [told.event.kind for told in story.events] == ["expire", "settle_late"]
    assert [told.adds_up for told in story.events] == [True, None]
    assert story.charged_nano == 20 + 550
    assert "charged in total: 0.00000057 credits" in shown(story)


async def test_a_refusal_tells_reason_and_amounts(bank: Bank, path: Path) -> None:
    log = RefusalLog(bank.client)
    log.note(
        RefusedRequest(
            request_id="r9",
            reason="insufficient_credits",
            status=402,
            customer_id="acme",
            key_id="k1",
            model="m",
            estimate_nano=5520,
            available_nano=0,
            message="Add credits, or [bold]lower[/bold] the output maximum.",
        )
    )
    await log.flush()
    story = await ask(bank, path, "r9")
    assert story.decision == "refused"
    text = shown(story)
    assert "refused with 402: insufficient_credits" in text
    assert "[bold]lower[/bold]" in text
    assert "estimate 0.00000552, available 0" in text


async def test_a_price_that_is_not_kept_leaves_the_quantities(bank: Bank, path: Path) -> None:
    await bank.open("acme")
    await bank.spend("acme", "r1")
    await bank.client.delete("{cg}:prices")
    story = await ask(bank, path, "r1")
    assert story.events[0].lines == ()
    assert "10 input, 7 output at price p_" in shown(story)


async def test_the_document_says_the_same(bank: Bank, path: Path) -> None:
    await bank.open("acme")
    await bank.spend("acme", "r1")
    document = story_document(await ask(bank, path, "r1"))
    assert document["decision"] == "allowed"
    assert document["charged"] == "0.000000059"
    assert document["end"]["outcome"] == "settled"
    assert document["grants"] == {"1": "purchase"}
    ((event),) = document["events"]
    assert event["adds_up"] is True
    assert event["delivered"] is False
    assert event["lines"][1] == {
        "unit": "output",
        "quantity": 7,
        "rate": "0.0000000055",
        "amount": "0.0000000385",
    }


async def test_lines_of_a_price_with_tiers_claim_nothing(bank: Bank, path: Path) -> None:
    bank.prices = compile_prices(
        [
            per_unit("input", 2000),
            Rate("output", "graduated", (Tier(5, 5500), Tier(None, 1000))),
        ],
        counter="m",
    )
    await bank.open("acme")
    await bank.spend("acme", "r1", output=7)
    story = await ask(bank, path, "r1")
    ((told),) = story.events
    assert told.lines == (PriceLine("input", 10, 2000), PriceLine("output", 7, None))
    assert told.adds_up is None
    assert "output 7 by tiers" in " ".join(shown(story).split())
    ((event),) = story_document(story)["events"]
    assert event["lines"][1] == {"unit": "output", "quantity": 7, "rate": None, "amount": None}


async def test_a_service_tier_is_told_at_its_own_price(bank: Bank, path: Path) -> None:
    bank.prices = compile_prices(
        {"input": 2000, "output": 5500, "flex.input": 1000, "flex.output": 3000}
    )
    account = await bank.open("acme")
    hold = await bank.reserve("acme", "r1")
    await bank.ledger.settle(
        account,
        "r1",
        bank.prices,
        bank.prices.vector({"flex.input": 10, "flex.output": 7}),
        bank.facts("acme", "r1", service_tier="flex", response_service_tier=None),
        tokens=17,
        reserved_at_ms=hold.reserved_at_ms,
    )
    story = await ask(bank, path, "r1")
    ((told),) = story.events
    assert told.event.usage == {"input": 10, "output": 7}
    assert told.lines == (PriceLine("flex.input", 10, 1000), PriceLine("flex.output", 7, 3000))
    assert told.adds_up is True
    assert "service tier flex" in shown(story)
