"""`Idempotency-Key` through a complete gate: one run, one charge, and the answer to a repeat."""

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.domain.delivery import START
from gateway.domain.event_rows import row_of
from gateway.domain.events import Event
from gateway.domain.money import format_amount
from gateway.exporter.sink import Batch
from gateway.flow.kept_responses import ANSWER_MAX_BYTES
from tests.support.gate import KEY, SHARDS, Gate, Serve, digest, running_gate
from tests.support.outbox_entries import read_entries
from tests.support.rawhttp import RawClient
from tests.support.stores import events_path, sqlite_sink
from tests.support.until import until
from tests.support.upstreams import Sim

NAMED = {"idempotency-key": "order-7"}
QUICK = "hi\nsim: tokens=3"


def chat(content: str = QUICK, **fields: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": content}], **fields}


async def ask(gate: Gate, content: str = QUICK, name: str = "order-7", **fields: Any) -> Any:
    headers = {"idempotency-key": name}
    return await gate.post("/v1/chat/completions", chat(content, **fields), headers)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error


async def nothing_more(gate: Gate, sim: Sim, posts: int = 1) -> None:
    """The upstream heard of it so many times, and that is what was charged."""
    await gate.settle_all()
    assert sim.provider.served.posts == posts
    assert len([event for event in await gate.events() if event.amount_nano]) == posts
    assert await gate.held_nano() == 0


async def test_a_repeat_of_what_was_done_is_told_its_cost_and_not_to_come_again(
    gate: Gate, sim: Sim
) -> None:
    first = await ask(gate)
    assert first.status_code == 200
    event = await gate.one_event()
    repeat = await ask(gate)
    assert repeat.status_code == 409
    assert repeat.headers["x-should-retry"] == "false"
    assert "retry-after" not in repeat.headers
    cost = format_amount(event.amount_nano)
    assert repeat.headers["x-credits-cost"] == first.headers["x-credits-cost"] == cost
    error = error_of(repeat)
    assert error["code"] == "already_done"
    assert error["metadata"] == {
        "reason": "already_done",
        "request_id": first.headers["x-request-id"],
        "cost": cost,
        "event_id": event.event_id,
    }
    assert repeat.headers["x-request-id"] != first.headers["x-request-id"]
    await nothing_more(gate, sim)


async def test_anthropic_callers_are_told_in_their_own_dialect(gate: Gate, sim: Sim) -> None:
    body = {**chat(), "max_tokens": 8}
    first = await gate.post("/v1/messages", body, NAMED)
    assert first.status_code == 200
    repeat = await gate.post("/v1/messages", body, NAMED)
    assert (repeat.status_code, repeat.headers["x-should-retry"]) == (409, "false")
    assert repeat.json()["type"] == "error"
    assert error_of(repeat)["type"] == "invalid_request_error"
    other = await gate.post("/v1/messages", {**body, "max_tokens": 9}, NAMED)
    assert (other.status_code, error_of(other)["type"]) == (422, "invalid_request_error")
    await nothing_more(gate, sim)


async def test_while_the_first_runs_a_repeat_is_told_to_come_later(gate: Gate, sim: Sim) -> None:
    first = asyncio.create_task(ask(gate, "hi\nsim: tokens=3 ttft_ms=600"))
    await until(lambda: len(gate.live) == 1)
    repeat = await ask(gate, "hi\nsim: tokens=3 ttft_ms=600")
    assert repeat.status_code == 409
    assert error_of(repeat)["code"] == "request_in_progress"
    assert int(repeat.headers["retry-after"]) >= 1
    assert "x-should-retry" not in repeat.headers
    other = await ask(gate, "something else")
    assert (other.status_code, other.headers["x-should-retry"]) == (422, "false")
    assert (await first).status_code == 200
    await nothing_more(gate, sim)


async def test_of_many_at_once_one_runs(gate: Gate, sim: Sim) -> None:
    answers = await asyncio.gather(*(ask(gate) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    await nothing_more(gate, sim)


async def test_what_was_not_charged_may_be_asked_again_by_the_same_name(
    gate: Gate, sim: Sim
) -> None:
    """A 5xx of the upstream, and a refusal for want of credit."""
    failed = await ask(gate, "hi\nsim: status=503", "a")
    assert failed.status_code == 503
    await gate.settle_all()
    again = await ask(gate, "hi\nsim: status=503", "a")
    assert again.status_code == 503, "it ran again"
    await gate.settle_all()
    assert sim.provider.served.posts == 2
    denied = await ask(gate, name="b", model="dear", n=5, max_tokens=4096)
    assert denied.status_code == 402
    assert (await ask(gate, name="b")).status_code == 200


async def test_another_route_another_api_key_and_another_name_are_other_requests(
    gate: Gate, sim: Sim
) -> None:
    await gate.store.keys.add(digest("sk-second"), "k-second", "acme")
    body = chat(max_tokens=8)
    second = {**NAMED, "authorization": "Bearer sk-second"}
    answers = [
        await gate.post("/v1/chat/completions", body, NAMED),
        await gate.post("/v1/messages", body, NAMED),
        await gate.post("/v1/chat/completions", body, second),
        await gate.post("/v1/chat/completions", body, {"idempotency-key": "order-8"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    await nothing_more(gate, sim, posts=4)


async def test_the_name_ends_at_the_gate_and_nobody_finds_it_in_the_ledger(
    gate: Gate, sim: Sim
) -> None:
    await ask(gate, "hi MARKER", "SECRET-NAME")
    await gate.settle_all()
    keys = [key async for key in gate.store._client.scan_iter("{cg:*}:i:*")]
    assert len(keys) == 1
    values = [await gate.store._client.get(key) for key in keys]
    assert b"SECRET" not in b"".join([*keys, *values])
    assert b"MARKER" not in b"".join(values)
    assert "answers.db" not in os.listdir(gate.settings.data_dir), "nothing is kept by default"


@pytest.mark.parametrize(
    "fields",
    [
        b"Idempotency-Key: \r\n",
        b"Idempotency-Key: two words\r\n",
        b"Idempotency-Key: " + b"x" * 256 + b"\r\n",
        "Idempotency-Key: naïve\r\n".encode(),
        b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
        b"Idempotency-Key: a\r\nidempotency-key: a\r\n",
    ],
)
async def test_a_name_that_cannot_be_one_is_400(gate: Gate, sim: Sim, fields: bytes) -> None:
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    body = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
    client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        + f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n".encode()
        + fields
        + b"\r\n"
        + body
    )
    answer = await client.answer()
    assert answer.status == 400
    assert b"Idempotency-Key" in answer.body
    await client.close()
    assert sim.provider.served.posts == 0


async def test_a_name_of_255_characters_is_one(gate: Gate, sim: Sim) -> None:
    name = "~" * 255
    assert (await ask(gate, name=name)).status_code == 200
    assert (await ask(gate, name=name)).status_code == 409


async def test_when_the_tombstone_is_gone_the_store_knows_the_cost(gate: Gate, sim: Sim) -> None:
    first = await ask(gate)
    event = await gate.one_event()
    rid = first.headers["x-request-id"]
    client: Any = gate.store._client
    await client.delete(gate.store.names.reservation(gate.store.names.shard_of("acme"), rid))
    unknown = await ask(gate)
    assert (unknown.status_code, unknown.headers["x-should-retry"]) == (409, "false")
    assert "x-credits-cost" not in unknown.headers
    sink = sqlite_sink(events_path(gate.settings))
    await sink.open()
    for _, entries in await read_entries(
        gate.outbox, dict.fromkeys(range(SHARDS), START), limit=1000
    ):
        await sink.write(Batch([row_of(entry) for entry in entries if isinstance(entry, Event)]))
    await sink.close()
    known = await ask(gate)
    assert known.headers["x-credits-cost"] == format_amount(event.amount_nano)
    assert error_of(known)["metadata"]["event_id"] == event.event_id


# Kept answers

KEEPING = {"policy": {"preset": "balanced", "keep_answers": True}}


async def test_a_kept_answer_is_given_again_word_by_word(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url, **KEEPING) as gate:
        first = await ask(gate)
        await gate.settle_all()
        repeat = await ask(gate)
        assert (repeat.status_code, repeat.content) == (200, first.content)
        assert repeat.headers["idempotent-replayed"] == "true"
        for name in ("content-type", "x-credits-cost"):
            assert repeat.headers[name] == first.headers[name]
        assert "idempotent-replayed" not in first.headers
        assert (await ask(gate, "other")).status_code == 422
        decisions = gate.service.snapshot()["creditgate_decisions_total"]["samples"]
        assert [["replay", ""], 1] in decisions
        await nothing_more(gate, sim)
        [row] = sqlite3.connect(tmp_path / "data" / "answers.db").execute("SELECT * FROM answers")
        assert "order-7" not in str(row)
        assert (tmp_path / "data" / "answers.db").stat().st_mode & 0o077 == 0


async def test_a_client_that_left_gets_the_answer_it_has_paid_for(serve: Serve, sim: Sim) -> None:
    async with serve(**KEEPING) as gate:
        slow = "hi\nsim: tokens=3 ttft_ms=400"
        with pytest.raises(httpx.ReadTimeout):
            async with httpx.AsyncClient(
                base_url=gate.url, timeout=httpx.Timeout(10, read=0.15)
            ) as hasty:
                await hasty.post(
                    "/v1/chat/completions", json=chat(slow), headers={**gate.headers, **NAMED}
                )
        await until(lambda: not gate.live, within_s=5)
        event = await gate.one_event()
        assert event.amount_nano > 0
        repeat = await ask(gate, slow)
        assert repeat.status_code == 200
        assert repeat.headers["x-credits-cost"] == format_amount(event.amount_nano)
        assert repeat.json()["choices"][0]["message"]["content"]
        await nothing_more(gate, sim)


@pytest.mark.parametrize(
    ("content", "fields"), [(QUICK, {"stream": True}), ("hi\nsim: tokens=4000", {"n": 8})]
)
async def test_streams_and_large_answers_are_not_kept(
    serve: Serve, sim: Sim, content: str, fields: dict[str, Any]
) -> None:
    async with serve(**KEEPING) as gate:
        first = await ask(gate, content, **fields)
        assert first.status_code == 200
        assert fields.get("stream") or len(first.content) > ANSWER_MAX_BYTES
        await gate.settle_all()
        repeat = await ask(gate, content, **fields)
        assert (repeat.status_code, error_of(repeat)["code"]) == (409, "already_done")
        await nothing_more(gate, sim)


async def test_another_gate_on_the_same_ledger_does_not_run_it_again(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    """Answers are kept by gate, names by ledger."""
    os.makedirs(tmp_path / "two")
    async with (
        running_gate(tmp_path, valkey_socket, sim.url, **KEEPING) as one,
        running_gate(tmp_path / "two", valkey_socket, sim.url, empty=False, **KEEPING) as two,
    ):
        assert (await ask(one)).status_code == 200
        await one.settle_all()
        elsewhere = await ask(two)
        assert (elsewhere.status_code, error_of(elsewhere)["code"]) == (409, "already_done")
        await nothing_more(one, sim)
