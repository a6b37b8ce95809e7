"""The end of a stream that waits for its cost: what is held, and what is written into it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import openai
import orjson
import pytest

from gateway.dialects.base import AnswerFacts
from gateway.domain.reservation import Settled
from gateway.flow import stream
from gateway.flow.held_end import MAX_HELD_BYTES, HeldEnd
from gateway.http.breaker import Breaker
from tests.flow.test_relay import DONE, HEAD, SSE, USAGE, chunk, frame, stream_of
from tests.flow.test_relay import serve as serve
from tests.flow.test_stream import ask
from tests.support.gate import KEY, Gate
from tests.support.rawhttp import Received

Serve = Callable[..., AbstractAsyncContextManager[Gate]]

SETTLED: Final = Settled("settled", 33_000, 9_999_967_000, "r:settled", replayed=False)
COST: Final = {"cost": "0.000033", "remaining": "9.999967"}
ENABLED: Final = {"enabled": True}
CONTENT: Final = frame("one") + frame('say \\"usage\\": {"no":1}')


def held_and_passed(*pieces: bytes, final_from: int) -> tuple[HeldEnd, bytes]:
    """Feed pieces; the meter has seen the final usage from this one on."""
    end, facts, passed = HeldEnd(), AnswerFacts(), b""
    for number, piece in enumerate(pieces):
        facts.usage_final = number >= final_from
        passed += end.take(piece, facts)
    return end, passed


def with_cost(usage: bytes) -> bytes:
    """The usage frame with the cost in it."""
    at = usage.index(b'"usage":{') + len(b'"usage":{')
    return usage[:at] + b'"credits":' + orjson.dumps(COST) + b"," + usage[at:]


def test_all_before_the_usage_passes_and_the_cost_is_written_into_it() -> None:
    end, passed = held_and_passed(CONTENT + USAGE + DONE, final_from=0)
    assert passed == CONTENT
    assert end.release(SETTLED) == with_cost(USAGE) + DONE
    assert not end.holds
    assert end.take(b": late\n\n", AnswerFacts(usage_final=True)) == b": late\n\n"


def test_without_a_settlement_it_passes_as_it_came() -> None:
    end, passed = held_and_passed(CONTENT, USAGE, DONE, final_from=1)
    assert passed + end.release() == CONTENT + USAGE + DONE


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'data: {"choices": [], "usage": {}}\n\n', {}),
        (b'data:{"choices":[],"usage" : { "prompt_tokens":7}}\r\n\r\n', {"prompt_tokens": 7}),
        (
            b'data: {"x_groq":{"usage":{"a":1}},"choices":[],"usage":{"prompt_tokens":7}}\n\n',
            {"prompt_tokens": 7},
        ),
    ],
    ids=["empty", "blanks and CRLF", "two usages"],
)
def test_however_the_usage_is_written(usage: bytes, expected: dict[str, int]) -> None:
    end, passed = held_and_passed(usage + DONE, final_from=0)
    assert passed == b""
    found = end.release(SETTLED)
    document = orjson.loads(found[5 : found.index(b"}" + usage[-2:]) + 1])
    assert document["usage"] == {**expected, "credits": COST}
    assert found.endswith(DONE)


@pytest.mark.parametrize(
    "usage",
    [
        b'data: {"choices":[{"usage":{"prompt_tokens":7}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":7}\n\n',
        b'data: {"usage":{"credits":3}}\n\n',
        b': "usage":{\n\n',
    ],
    ids=["below a choice", "not JSON", "has one", "a comment"],
)
def test_what_has_no_place_for_it_stays_as_it_is(usage: bytes) -> None:
    end, passed = held_and_passed(usage + DONE, final_from=0)
    assert passed + end.release(SETTLED) == usage + DONE


def test_output_behind_a_usage_ends_the_wait() -> None:
    end, facts = HeldEnd(), AnswerFacts(usage_final=True)
    assert end.take(USAGE, facts) == b""
    facts.counted_output = 1
    assert end.take(frame("more"), facts) == USAGE + frame("more")
    assert end.take(USAGE + DONE, facts) == b""
    assert end.release(SETTLED) == with_cost(USAGE) + DONE


def test_a_long_end_is_not_held() -> None:
    comment = b": " + b"x" * MAX_HELD_BYTES + b"\n\n"
    end, passed = held_and_passed(USAGE, comment, DONE, final_from=0)
    assert passed == USAGE + comment + DONE
    assert not end.holds


# With a gate


async def test_the_last_chunk_says_what_was_charged(serve: Serve) -> None:
    async with serve(stream_of(CONTENT, USAGE + DONE), key_holders=ENABLED) as gate:
        client = await ask(gate)
        answer = await client.answer()
        event = await gate.one_event()
        await client.close()
    said = last_usage(answer.body)["credits"]
    assert nano(said["cost"]) == event.amount_nano
    assert nano(said["remaining"]) == event.balance_nano
    assert answer.body.startswith(CONTENT)
    assert answer.body.endswith(DONE)


async def test_content_does_not_wait_for_the_settlement(serve: Serve) -> None:
    seen = asyncio.Event()

    async def respond(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % SSE + chunk(CONTENT + USAGE))
        await seen.wait()
        writer.write(chunk(DONE) + b"0\r\n\r\n")

    async with serve(respond, key_holders=ENABLED) as gate:
        client = await ask(gate)
        async with asyncio.timeout(10):
            await client.reader.readuntil(CONTENT)
        seen.set()
        rest = await client.reader.readuntil(b"0\r\n\r\n")
        await client.close()
    assert b'"credits"' in rest


@pytest.mark.parametrize(
    "section", [{"enabled": True, "stream_cost": False}, {"enabled": False}], ids=str
)
async def test_a_stream_is_unchanged_where_it_is_not_enabled(
    serve: Serve, section: dict[str, Any]
) -> None:
    async with serve(stream_of(CONTENT + USAGE + DONE), key_holders=section) as gate:
        client = await ask(gate)
        answer = await client.answer()
        await client.close()
    assert answer.body == CONTENT + USAGE + DONE


async def test_a_client_that_asks_for_no_usage_gets_none(serve: Serve) -> None:
    async with serve(stream_of(CONTENT + USAGE + DONE), key_holders=ENABLED) as gate:
        answer = await gate.chat(stream=True)
        await gate.settle_all()
    assert answer.content == CONTENT + DONE


async def test_cost_in_the_chunk_and_in_comments_agree(serve: Serve) -> None:
    async with serve(stream_of(CONTENT, USAGE, DONE), key_holders=ENABLED) as gate:
        client = await ask(gate, **{"x-credits-trailer": "1"})
        answer = await client.answer()
        await client.close()
    stated = last_usage(answer.body)["credits"]
    tail = f"data: [DONE]\n\n: x-credits-cost {stated['cost']}\n\n: x-credits-remaining {stated['remaining']}\n\n"
    assert answer.body.endswith(tail.encode())


async def test_a_settlement_that_takes_too_long_does_not_keep_the_end(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        return None

    monkeypatch.setattr("gateway.flow.reservation.reservation.Reservation.settled_within", never)
    monkeypatch.setattr(stream, "SETTLE_WAIT_S", 0.05)
    async with serve(stream_of(CONTENT, USAGE + DONE), key_holders=ENABLED) as gate:
        client = await ask(gate)
        answer = await client.answer()
        await client.close()
    assert answer.body == CONTENT + USAGE + DONE


async def test_a_stream_split_at_every_byte_says_the_same(serve: Serve) -> None:
    whole = frame("one") + USAGE + DONE
    bodies = set()

    async def respond(
        asked: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        at = cuts.pop()
        writer.write(HEAD % SSE + chunk(whole[:at]))
        await writer.drain()
        await asyncio.sleep(0.002)
        writer.write(chunk(whole[at:]) + b"0\r\n\r\n")

    cuts = list(range(1, len(whole)))
    async with serve(respond, key_holders=ENABLED) as gate:
        while cuts:
            client = await ask(gate)
            answer = await client.answer()
            await client.close()
            assert answer.body.startswith(frame("one"))
            assert answer.body.endswith(DONE)
            usage = last_usage(answer.body)
            bodies.add(usage["credits"]["cost"])
            assert usage["prompt_tokens"] == 7
    assert len(bodies) == 1


async def test_a_stream_cut_at_every_byte_still_parses(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaker, "fail", lambda *_: None)  # or the upstream would be cut off
    whole = frame("one") + USAGE + DONE

    async def respond(
        asked: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(HEAD % SSE + chunk(whole[: cuts.pop()]))
        await writer.drain()
        return False

    cuts = list(range(1, len(whole)))
    async with serve(respond, key_holders=ENABLED) as gate:
        while cuts:
            client = await ask(gate)
            answer = await client.answer()
            await client.close()
            frames = [each for each in answer.body.split(b"\n\n") if each]
            assert frames[-1] == b"data: [DONE]"
            documents = [orjson.loads(each[6:]) for each in frames[:-1]]
            assert documents[-1]["error"]
            assert all("credits" not in (each.get("usage") or {}) for each in documents)


async def test_the_official_sdk_shows_it(serve: Serve) -> None:
    usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}\n\n'
    async with serve(stream_of(frame("hi"), usage + DONE), key_holders=ENABLED) as gate:
        client = openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=KEY, max_retries=0)
        chunks = [
            each
            async for each in await client.chat.completions.create(
                model="small",
                messages=[{"role": "user", "content": "hi"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        event = await gate.one_event()
    said: Any = chunks[-1].usage
    assert said.total_tokens == 10
    assert nano(said.credits["cost"]) == event.amount_nano


def last_usage(body: bytes) -> dict[str, Any]:
    """The usage of the last chunk that has one."""
    found: dict[str, Any] = {}
    for each in body.split(b"\n\n"):
        if each.startswith(b"data: {"):
            found = orjson.loads(each[6:]).get("usage") or found
    return found


def nano(decimal: str) -> int:
    """A decimal of credits, exactly."""
    whole, _, rest = decimal.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0"))
