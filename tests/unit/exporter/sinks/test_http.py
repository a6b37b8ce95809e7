"""Usage over HTTP, against stand-ins with each receiver's documented behaviour (`billing_standins.py`)."""

import asyncio
import base64
import hmac
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.domain.event_rows import EventRow
from gateway.exporter.sink import Batch, SinkUnavailable
from gateway.exporter.sinks.http import HttpSink
from gateway.exporter.sinks.options import SinkOptions
from gateway.exporter.sinks.options_http import HttpOptions
from tests.support.billing_standins import (
    STAND_INS,
    CloudEventsStandIn,
    LagoStandIn,
    OrbStandIn,
    StandIn,
    running,
)
from tests.unit.exporter.sinks.contract import StoredIds, make_batch, make_row
from tests.unit.exporter.sinks.cursorless import CursorlessContract
from tests.unit.exporter.sinks.killing import KillContract

EVERY_RECIPE = pytest.mark.parametrize("recipe", sorted(STAND_INS))


def options_of(receiver: StandIn, recipe: str, **more: Any) -> HttpOptions:
    url = receiver.url + (receiver.path if recipe in ("cloudevents", "custom") else "")
    return replace(HttpOptions(url, recipe, key="the-key", timeout_ms=2000), **more)


@pytest.fixture
async def receiver(recipe: str) -> AsyncIterator[StandIn]:
    async with running(STAND_INS[recipe]()) as standin:
        yield standin


@pytest.fixture
async def sink(recipe: str, receiver: StandIn) -> AsyncIterator[HttpSink]:
    sink = HttpSink(options_of(receiver, recipe))
    yield sink
    await sink.close()


@pytest.fixture
def recipe() -> str:
    return "lago"


class TestContractOnTheStandInForLago(CursorlessContract):
    """Lago names repeats, so they are counted."""

    @pytest.fixture
    def stored_ids(self, receiver: StandIn) -> StoredIds:
        async def read() -> list[str]:
            return list(receiver.taken)

        return read

    @pytest.fixture
    def unacceptable(self, receiver: StandIn) -> EventRow:
        receiver.broken = {"nobody"}
        return make_row(0, customer_id="nobody")


class TestKilledOnTheStandInForLago(KillContract):
    @pytest.fixture
    def options(self, receiver: StandIn) -> SinkOptions:
        return options_of(receiver, "lago")

    @pytest.fixture
    def stored_ids(self, receiver: StandIn) -> StoredIds:
        async def read() -> list[str]:
            return list(receiver.taken)

        return read


@EVERY_RECIPE
async def test_stand_in_takes_a_batch_once_however_often_it_is_sent(
    sink: HttpSink, receiver: StandIn
) -> None:
    await sink.open()
    assert (await sink.write(make_batch(0, 250))).stored == 250
    assert (len(receiver.taken), receiver.repeats) == (250, [])
    await sink.close()
    await sink.open()
    written = await sink.write(make_batch(0, 251))
    assert (written.stored + written.duplicates, list(written.failed)) == (251, [])
    assert len(receiver.taken) == 251
    assert len(receiver.repeats) >= 250


@EVERY_RECIPE
async def test_stand_in_refuses_one_item_and_the_others_arrive(
    sink: HttpSink, receiver: StandIn
) -> None:
    receiver.broken = {"nobody"}
    wrong = [make_row(seq, customer_id="nobody") for seq in (17, 44)]
    await sink.open()
    written = await sink.write(Batch([*make_batch(0, 17).rows, *wrong, *make_batch(50, 90).rows]))
    assert [(failure.row, failure.retry) for failure in written.failed] == [
        (row, False) for row in wrong
    ]
    assert all(failure.reason.startswith("answered ") for failure in written.failed)
    assert written.stored + written.duplicates == 57
    assert len(receiver.taken) == 57


@EVERY_RECIPE
async def test_stand_in_gets_the_fields_that_its_documentation_names(
    sink: HttpSink, receiver: StandIn, recipe: str
) -> None:
    row = make_row(3, cost_nano=400)
    await sink.open()
    await sink.write(Batch([row]))
    ((_, item),) = receiver.taken.items()
    held = item.get("data") or item["properties"]
    assert held.pop("amount") == "0.000000703"
    assert (held["model"], held["cost"], held["tag_team"]) == ("m", "0.0000004", "x")
    assert held["input"] == ("12" if recipe == "metronome" else 12)
    named = {name: value for name, value in item.items() if value is not held}
    time = "2023-11-14T22:13:20.003Z"
    source = {"source": "creditgate"}
    cloudevent = {
        **source,
        "specversion": "1.0",
        "id": row.event_id,
        "type": "creditgate.usage",
        "subject": "acme",
        "time": time,
        "datacontenttype": "application/json",
    }
    event_name, customer = {"event_name": "creditgate.usage"}, {"external_customer_id": "acme"}
    expected: dict[str, dict[str, str]] = {
        "cloudevents": cloudevent,
        "openmeter": cloudevent,
        "lago": {
            "transaction_id": row.event_id,
            "external_subscription_id": "acme",
            "code": "creditgate.usage",
            "timestamp": "1700000000.003",
            "precise_total_amount_cents": "0.0000703",
        },
        "flexprice": {
            **source,
            **event_name,
            **customer,
            "event_id": row.event_id,
            "timestamp": time,
        },
        "orb": {**event_name, **customer, "idempotency_key": row.event_id, "timestamp": time},
        "metronome": {
            "transaction_id": row.event_id,
            "customer_id": "acme",
            "event_type": "creditgate.usage",
            "timestamp": time,
        },
    }
    assert named == expected[recipe]


@EVERY_RECIPE
async def test_stand_in_refuses_the_key_and_the_message_has_no_secret(
    receiver: StandIn, recipe: str
) -> None:
    sink = HttpSink(options_of(receiver, recipe, key="another-key"))
    with pytest.raises(SinkUnavailable, match="the key is wrong") as caught:
        await sink.open()
    assert "another-key" not in str(caught.value) + repr(sink) + repr(
        options_of(receiver, recipe, key="another-key")
    )
    await sink.close()


async def test_stand_in_for_orb_that_refuses_the_call_gets_the_rest_again() -> None:
    async with running(OrbStandIn()) as receiver:
        assert isinstance(receiver, OrbStandIn)
        receiver.refuses, receiver.broken = True, {"nobody"}
        sink = HttpSink(options_of(receiver, "orb"))
        await sink.open()
        written = await sink.write(
            Batch([make_row(0, customer_id="nobody"), *make_batch(1, 5).rows])
        )
        assert (written.stored, len(written.failed), len(receiver.calls)) == (4, 1, 2)
        await sink.close()


async def test_nothing_is_sent_while_the_receiver_has_asked_for_a_pause(
    sink: HttpSink, receiver: StandIn
) -> None:
    await sink.open()
    receiver.answers = [(429, {"retry-after": "1"})]
    with pytest.raises(SinkUnavailable, match="answered 429"):
        await sink.write(make_batch(0, 5))
    with pytest.raises(SinkUnavailable, match="asked for a pause"):
        await sink.write(make_batch(0, 5))
    assert len(receiver.calls) == 1
    await asyncio.sleep(1.05)
    assert (await sink.write(make_batch(0, 5))).stored == 5


@pytest.mark.parametrize("status", [301, 403, 404, 500, 503])
async def test_an_answer_that_is_not_about_the_content_buries_nothing(
    sink: HttpSink, receiver: StandIn, status: int
) -> None:
    await sink.open()
    receiver.answers = [status]
    with pytest.raises(SinkUnavailable, match=f"answered {status}"):
        await sink.write(make_batch(0, 5))
    assert (await sink.write(make_batch(0, 5))).stored == 5


async def test_what_was_taken_of_an_unfinished_batch_is_not_sent_again(receiver: StandIn) -> None:
    sink = HttpSink(options_of(receiver, "lago", concurrent=1))
    await sink.open()
    receiver.answers = [200, 200, 503]
    with pytest.raises(SinkUnavailable):
        await sink.write(make_batch(0, 250))
    sent = len(receiver.taken)
    assert 200 <= sent < 250
    await sink.open()
    written = await sink.write(make_batch(0, 250))
    assert (written.stored, written.duplicates, receiver.repeats) == (250, 0, [])
    await sink.close()


async def test_it_goes_on_when_the_receiver_is_back(sink: HttpSink, receiver: StandIn) -> None:
    await sink.open()
    await sink.write(make_batch(0, 5))
    await receiver.stop()
    for _ in range(2):
        with pytest.raises(SinkUnavailable):
            await sink.write(make_batch(0, 9))
        with pytest.raises(SinkUnavailable):
            await sink.open()
    await receiver.start()
    await sink.open()
    written = await sink.write(make_batch(0, 9))
    assert (written.stored, written.duplicates) == (4, 5)


async def test_a_slow_receiver_is_unavailable_and_its_late_work_is_no_second_item(
    receiver: StandIn,
) -> None:
    sink = HttpSink(options_of(receiver, "lago", timeout_ms=150))
    await sink.open()
    receiver.answers = [0.3]
    with pytest.raises(SinkUnavailable, match=r"no answer within 0\.15 s"):
        await sink.write(make_batch(0, 5))
    await asyncio.sleep(0.3)
    await sink.open()
    written = await sink.write(make_batch(0, 5))
    assert written.stored + written.duplicates == len(receiver.taken) == 5
    await sink.close()


async def test_writing_unopened_is_unavailable(sink: HttpSink) -> None:
    with pytest.raises(SinkUnavailable):
        await sink.write(make_batch(0, 1))


async def test_only_usage_is_sent_and_not_that_of_test_keys(
    sink: HttpSink, receiver: StandIn
) -> None:
    kinds = ("settle", "release", "expire", "settle_late", "grant", "adjust", "account", "void")
    rows = [make_row(seq, kind=kind) for seq, kind in enumerate(kinds)]
    rows.append(make_row(50)._replace(livemode=False))
    await sink.open()
    written = await sink.write(Batch(rows))
    assert (written.stored, written.skipped) == (3, 6)
    assert sorted(item["properties"]["kind"] for item in receiver.taken.values()) == [
        "expire",
        "settle",
        "settle_late",
    ]


async def test_nothing_of_a_shadow_wallet_is_sent_whatever_is_asked_for(receiver: StandIn) -> None:
    kinds = frozenset({"settle", "expire", "settle_late", "adjust", "grant"})
    sink = HttpSink(options_of(receiver, "lago", test_keys=True, kinds=kinds))
    await sink.open()
    rows = [
        make_row(seq, kind=kind, customer_id="acme~shadow")
        for seq, kind in enumerate(sorted(kinds))
    ]
    rows.append(make_row(50, customer_id="acme~test~shadow")._replace(livemode=False))
    written = await sink.write(Batch(rows))
    assert (written.stored, written.skipped) == (0, 6)
    assert not receiver.calls
    await sink.close()


async def test_usage_of_test_keys_is_sent_if_asked(receiver: StandIn) -> None:
    sink = HttpSink(options_of(receiver, "lago", test_keys=True, kinds=frozenset({"settle"})))
    await sink.open()
    written = await sink.write(
        Batch([make_row(0)._replace(livemode=False), make_row(1, kind="expire")])
    )
    assert (written.stored, written.skipped) == (1, 1)
    await sink.close()


async def test_a_late_settle_sends_its_difference_and_no_quantity_a_second_time(
    sink: HttpSink, receiver: StandIn
) -> None:
    usage = {"input": 40, "output": 3}
    await sink.open()
    await sink.write(
        Batch(
            [
                make_row(0, kind="expire", usage={"input": 40}, amount_nano=900),
                make_row(1, kind="settle_late", usage=usage, amount_nano=-200),
            ]
        )
    )
    sent = [item["properties"] for item in receiver.taken.values()]
    assert [each["amount"] for each in sent] == ["0.0000009", "-0.0000002"]
    assert [each.get("input") for each in sent] == [40, None]
    assert [item["precise_total_amount_cents"] for item in receiver.taken.values()] == [
        "0.0000900",
        "-0.0000200",
    ]


async def test_each_unit_is_an_item_of_its_own_if_the_name_asks(receiver: StandIn) -> None:
    sink = HttpSink(options_of(receiver, "lago", event_name="llm_{unit}"))
    await sink.open()
    assert (await sink.write(Batch([make_row(0)]))).stored == 1
    sent = {
        key: (item["code"], item["properties"]["quantity"], "input" in item["properties"])
        for key, item in receiver.taken.items()
    }
    assert sent == {
        "r0-0:settled:input": ("llm_input", 12, False),
        "r0-0:settled:output": ("llm_output", 5, False),
        "r0-0:settled:amount": ("llm_amount", "0.0000007", False),
    }
    only = HttpSink(options_of(receiver, "lago", event_name="tokens", units=("output",)))
    await only.open()
    written = await only.write(Batch([make_row(1), make_row(2, usage={"input": 3})]))
    assert (written.stored, written.skipped) == (1, 1)
    assert receiver.taken["r0-1:settled:output"]["code"] == "tokens"
    for each in (sink, only):
        await each.close()


async def test_an_event_without_what_the_template_names_fails_alone(receiver: StandIn) -> None:
    sink = HttpSink(options_of(receiver, "lago", customer="sub_{tags.team}"))
    await sink.open()
    written = await sink.write(Batch([make_row(0), make_row(1, facts={"model": "m"})]))
    assert [failure.reason for failure in written.failed] == [
        "the event has no value for {tags.team}"
    ]
    assert [item["external_subscription_id"] for item in receiver.taken.values()] == ["sub_x"]
    await sink.close()


@pytest.mark.parametrize("more", [{}, {"event_name": "llm_{unit}"}, {"units": ("input",)}])
async def test_a_marked_event_is_sent_although_it_is_of_a_test_key_and_has_no_tags(
    receiver: StandIn, more: dict[str, Any]
) -> None:
    facts = {"test": True, "model": "test"}
    marked = make_row(0, customer_id="creditgate-test", amount_nano=0, usage={}, facts=facts)
    sink = HttpSink(options_of(receiver, "lago", customer="{tags.sub}", **more))
    await sink.open()
    assert (await sink.write(Batch([marked._replace(livemode=False)]))).stored == 1
    ((item),) = receiver.taken.values()
    assert item["external_subscription_id"] == "creditgate-test"
    await sink.close()


async def test_a_signature_can_be_verified_and_both_secrets_are_valid() -> None:
    keys = (b"the-new-secret", b"the-old-secret")
    async with running(CloudEventsStandIn()) as receiver:
        sink = HttpSink(options_of(receiver, "cloudevents", signing_keys=keys))
        await sink.open()
        await sink.write(Batch([make_row(0)]))
        await sink.write(make_batch(1, 3))
        await sink.close()
    (single, single_body), (several, several_body) = receiver.calls
    assert single["content-type"] == "application/cloudevents+json"
    assert single["idempotency-key"] == "r0-0:settled"
    assert several["content-type"] == "application/cloudevents-batch+json"
    for headers, body in ((single, single_body), (several, several_body)):
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
        assert headers["webhook-signature"] == " ".join(f"v1,{each}" for each in expected)


async def test_a_call_has_the_same_id_and_bytes_at_every_attempt() -> None:
    async with running(CloudEventsStandIn()) as receiver:
        sink = HttpSink(options_of(receiver, "cloudevents"))
        await sink.open()
        receiver.answers = [500]
        with pytest.raises(SinkUnavailable):
            await sink.write(make_batch(0, 3))
        await sink.write(make_batch(0, 3))
        await sink.close()
    (first, first_body), (second, second_body) = receiver.calls
    assert first["idempotency-key"] == second["idempotency-key"]
    assert first_body == second_body


async def test_a_receiver_that_says_409_has_it_already() -> None:
    async with running(CloudEventsStandIn()) as receiver:
        sink = HttpSink(options_of(receiver, "cloudevents"))
        await sink.open()
        receiver.answers = [409]
        assert (await sink.write(make_batch(0, 3))).duplicates == 3
        await sink.close()


class _Anything(StandIn):
    path = "/in"

    def receive(self, body: Any, content_type: str) -> tuple[int, Any]:
        for item in body["rows"]:
            self.take(item["id"], item)
        return 201, {}


async def test_a_custom_body_is_what_its_templates_say() -> None:
    item = {
        "id": "{event_id}",
        "who.customer": "{customer_id}",
        "who.team": "team {tags.team}",
        "n": "{usage.input}",
        "reasoning": "{usage.reasoning}",
        "at": "{time}",
        "fixed": "yes",
    }
    async with running(_Anything()) as receiver:
        more = {"item": item, "wrap": "rows", "headers": {"x-tenant": "t"}}
        sink = HttpSink(options_of(receiver, "custom", **more))
        await sink.open()
        assert (await sink.write(Batch([make_row(0)]))).stored == 1
        await sink.close()
    ((headers, body),) = receiver.calls
    assert headers["x-tenant"] == "t"
    assert orjson.loads(body) == {
        "rows": [
            {
                "id": "r0-0:settled",
                "who": {"customer": "acme", "team": "team x"},
                "n": 12,
                "reasoning": 0,
                "at": "2023-11-14T22:13:20.000Z",
                "fixed": "yes",
            }
        ]
    }


async def test_an_answer_that_names_items_oddly_splits_the_call_instead() -> None:
    """Lago's answer about the list as a whole has no index."""

    class Odd(LagoStandIn):
        def receive(self, body: Any, content_type: str) -> tuple[int, Any]:
            if len(body["events"]) > 2:
                return 422, {"status": 422, "error_details": {"events": ["too_many_events"]}}
            return super().receive(body, content_type)

    async with running(Odd()) as receiver:
        sink = HttpSink(options_of(receiver, "lago"))
        await sink.open()
        assert (await sink.write(make_batch(0, 9))).stored == 9
        assert len(receiver.taken) == 9
        await sink.close()


def test_the_replay_age_is_below_the_receivers_window_unless_set() -> None:
    ages = {
        recipe: HttpSink(HttpOptions("http://h", recipe)).max_replay_age_ms for recipe in STAND_INS
    }
    hour = 3_600_000
    assert ages == {
        "cloudevents": None,
        "openmeter": 31 * 24 * hour,
        "lago": None,
        "flexprice": None,
        "orb": 11 * hour,
        "metronome": 33 * 24 * hour,
    }
    assert HttpSink(HttpOptions("http://h", "orb", max_replay_age_ms=5)).max_replay_age_ms == 5
