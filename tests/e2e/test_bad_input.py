"""The bad-input catalogue through a complete gate, on the raw socket: rows about JSON bodies,
keys, and usage. (Rows about HTTP itself: tests/flow/test_bad_http.py, same numbers.)

Unless said otherwise a row gets: no upstream call, no debit, no hold, a JSON error.
"""

import asyncio
import json
from itertools import product
from typing import Any

import pytest

from tests.support.gate import BROKE_KEY, KEY, Gate, Serve
from tests.support.rawhttp import RawAnswer, RawClient
from tests.support.until import until
from tests.support.upstreams import Sim


def port_of(gate: Gate) -> int:
    return int(gate.url.rpartition(":")[2])


async def send(
    gate: Gate,
    body: bytes,
    *,
    path: str = "/v1/chat/completions",
    key: str = KEY,
    fields: bytes = b"",
) -> RawAnswer:
    """POST these very bytes."""
    client = await RawClient.connect(port_of(gate))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: gate.example\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    client.send(head.encode() + fields + b"\r\n" + body)
    answer = await client.answer(within_s=20)
    await client.close()
    return answer


def chat(**fields: Any) -> bytes:
    """A good chat request with these fields changed."""
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    return json.dumps({**body, **fields}).encode()


GOOD = chat()
INSIDE = GOOD[1:-1]


def with_text(text: bytes) -> bytes:
    """A chat whose message holds these bytes."""
    return b'{"model":"small","messages":[{"role":"user","content":"' + text + b'"}]}'


def with_part(part: dict[str, Any]) -> bytes:
    """A chat whose message holds this content part."""
    return chat(messages=[{"role": "user", "content": [part]}])


BODIES: list[tuple[str, bytes, int]] = [
    ("25 two models", b'{"model":"small",' + INSIDE + b"}", 400),
    ("25 two max_tokens", b"{" + INSIDE + b',"max_tokens":9}', 400),
    ("25 two messages", b"{" + INSIDE + b',"messages":[]}', 400),
    ("25 two n", b"{" + INSIDE + b',"n":1,"n":9}', 400),
    ("26 escaped model", b"{" + INSIDE + b',"mod\\u0065l":"dear"}', 400),
    ("26 Model", b"{" + INSIDE + b',"Model":"dear"}', 400),
    ("26 MAX_TOKENS", b"{" + INSIDE + b',"MAX_TOKENS":1}', 400),
    ("27 no model", b'{"messages":[{"role":"user","content":"hi"}]}', 400),
    ("27 model null", chat(model=None), 400),
    ("27 model list", chat(model=["small"]), 400),
    ("27 model number", chat(model=3), 400),
    ("27 model empty", chat(model=""), 400),
    ("27 model of 10 KB", chat(model="m" * 10_000), 400),
    ("27 model with control characters", chat(model="sm\u0000all"), 400),
    ("28 unpriced model", chat(model="unheard-of"), 404),
    ("29 NaN", b"{" + INSIDE + b',"temperature":NaN}', 400),
    ("29 Infinity", b"{" + INSIDE + b',"temperature":-Infinity}', 400),
    ("29 1e400", b"{" + INSIDE + b',"temperature":1e400}', 400),
    ("29 2^64", b"{" + INSIDE + b',"seed":18446744073709551616}', 400),
    ("29 5,000 digits", b"{" + INSIDE + b',"seed":' + b"9" * 5000 + b"}", 400),
    *((f"30 max_tokens {v!r}", chat(max_tokens=v), 400) for v in (-1, 0, 1.5, True, "8")),
    *((f"30 n {v!r}", chat(n=v), 400) for v in (-1, 0, 1.5, True, "2")),
    ("31 max_tokens 10^9", chat(max_tokens=10**9), 400),
    ("31 max_completion_tokens 10^9", chat(max_completion_tokens=10**9), 400),
    ("33 n=128 of a dear model", chat(model="dear", n=128, max_tokens=4096), 402),
    (
        "36 depth 100k",
        b'{"model":"small","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        400,
    ),
    ("37 BOM", b"\xef\xbb\xbf" + GOOD, 400),
    ("37 UTF-16", GOOD.decode().encode("utf-16"), 400),
    ("37 UTF-32", GOOD.decode().encode("utf-32"), 400),
    ("37 lone surrogate", with_text(b"\\ud800"), 400),
    ("37 invalid UTF-8", with_text(b"\xff\xfe"), 400),
    ("37 overlong UTF-8", with_text(b"\xc0\xaf"), 400),
    ("38 trailing JSON", GOOD + b"{}", 400),
    ("38 trailing NUL", GOOD + b"\x00", 400),
    ("38 array root", b"[" + GOOD + b"]", 400),
    ("38 empty body", b"", 400),
    ("42 api_base", chat(api_base="http://127.0.0.1:1"), 400),
    ("42 base_url", chat(base_url="http://127.0.0.1:1"), 400),
    ("49 a file id", with_part({"type": "file", "file": {"file_id": "file-1"}}), 400),
]


async def test_row_47_a_name_of_a_request_is_used_once(gate: Gate, sim: Sim) -> None:
    """While the first runs: another body 422, the same 409; and the same when it has ended."""
    named = b"Idempotency-Key: order-7\r\n"
    slow = [{"role": "user", "content": "hi\nsim: tokens=2 ttft_ms=500"}]
    running = asyncio.create_task(send(gate, chat(messages=slow), fields=named))
    await until(lambda: len(gate.live) == 1)
    other = await send(gate, GOOD, fields=named)
    same = await send(gate, chat(messages=slow), fields=named)
    assert (other.status, other.headers["x-should-retry"]) == (422, "false")
    assert (same.status, same.headers["retry-after"]) == (409, "2")
    assert (await running).status == 200
    await gate.settle_all()
    other = await send(gate, GOOD, fields=named)
    same = await send(gate, chat(messages=slow), fields=named)
    assert (other.status, other.headers["x-should-retry"]) == (422, "false")
    assert (same.status, same.headers["x-should-retry"]) == (409, "false")
    for refused in (other, same):
        assert json.loads(refused.body)["error"]["message"]
    assert sim.provider.served.posts == 1
    assert len(await gate.events()) == 1


async def test_a_bad_body_is_refused_in_words_and_nothing_moves(
    gate: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    for row, body, status in BODIES:
        with subtests.test(row):
            answer = await send(gate, body)
            assert answer.status == status, answer.body
            error = json.loads(answer.body)["error"]
            assert error["message"]
            assert "Traceback" not in error["message"]
            assert answer.headers["x-should-retry"] == "false"
            await nothing_moved(gate, sim)


FILE_PART = {"type": "input_file", "file_id": "f"}
RESPONSES: list[tuple[str, dict[str, Any]]] = [
    ("49 previous_response_id", {"previous_response_id": "resp_1"}),
    ("49 conversation", {"conversation": "conv_1"}),
    ("49 an input file id", {"input": [{"role": "user", "content": [FILE_PART]}]}),
    ("50 background", {"background": True}),
    *(
        (f"51 {kind}", {"tools": [{"type": kind, **more}]})
        for kind, more in (
            ("web_search", {}),
            ("file_search", {"vector_store_ids": ["vs"]}),
            ("code_interpreter", {"container": {"type": "auto"}}),
            ("image_generation", {}),
            ("mcp", {"server_url": "http://x"}),
        )
    ),
]


async def test_a_response_that_the_estimate_cannot_bound_is_refused(
    gate: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    for row, fields in RESPONSES:
        with subtests.test(row):
            body = {"model": "small", "input": "hi", "max_output_tokens": 16, **fields}
            answer = await send(gate, json.dumps(body).encode(), path="/v1/responses")
            assert answer.status == 400, answer.body
            assert json.loads(answer.body)["error"]["message"]
            await nothing_moved(gate, sim)


async def test_41_an_endpoint_that_no_route_names_is_404_and_never_free(
    gate: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    for path in ("/v1/batches", "/v1/files", "/v1/fine_tuning/jobs", "/v1/images", "/"):
        with subtests.test(path):
            answer = await send(gate, GOOD, path=path)
            assert answer.status == 404
            assert json.loads(answer.body)["error"]["message"]
            await nothing_moved(gate, sim)


async def test_32_of_two_output_maxima_the_larger_is_reserved(gate: Gate, sim: Sim) -> None:
    low = await gate.chat(max_tokens=10, max_completion_tokens=20)
    high = await gate.chat(max_tokens=10, max_completion_tokens=1000)
    assert (low.status_code, high.status_code) == (200, 200)
    first, second = [event.estimated_amount_nano for event in await settled(gate)]
    assert second - first >= 900 * 4000, "1000 tokens are held, not 10"


async def test_33_n_multiplies_the_hold(gate: Gate, sim: Sim) -> None:
    await gate.chat(max_tokens=100)
    await gate.chat(max_tokens=100, n=5)
    one, five = [event.estimated_amount_nano for event in await settled(gate)]
    assert five - one >= 4 * 100 * 4000


async def test_34_without_a_maximum_the_model_s_is_held(gate: Gate, sim: Sim) -> None:
    await gate.chat()
    [event] = await settled(gate)
    assert event.estimated_amount_nano >= 4096 * 4000


async def test_35_usage_is_asked_for_and_its_chunk_hidden(gate: Gate, sim: Sim) -> None:
    answer = await gate.chat("hi\nsim: tokens=3", stream=True)
    assert answer.status_code == 200
    frames = [line for line in answer.text.split("\n\n") if line]
    assert frames[-1] == "data: [DONE]"
    assert not [frame for frame in frames if '"usage":{' in frame.replace(" ", "")]
    [event] = await settled(gate)
    assert event.facts["usage_source"] == "provider_reported"
    assert event.usage["output"] == 3


async def test_43_an_image_url_is_passed_on_and_never_fetched(serve: Serve, sim: Sim) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}
    policy = {"media_tokens": {"image": 100}}
    async with serve(policy=policy) as gate:
        answer = await send(gate, with_part(part))
        assert answer.status == 200, "the simulated provider was asked, nobody else"
    [row] = sim.provider.served.rows
    assert part in json.loads(row.body or "")["messages"][0]["content"]


async def test_44_two_different_keys_are_401_and_so_is_a_key_in_the_query(
    gate: Gate, sim: Sim
) -> None:
    other = await send(gate, GOOD, fields=b"X-Api-Key: sk-other\r\n")
    assert other.status == 401
    assert other.headers["www-authenticate"] == "Bearer"
    client = await RawClient.connect(port_of(gate))
    client.send(
        f"POST /v1/chat/completions?key={KEY} HTTP/1.1\r\nHost: a\r\n"
        f"Content-Length: {len(GOOD)}\r\n\r\n".encode()
        + GOOD
    )
    answer = await client.answer()
    assert answer.status == 401
    assert KEY.encode() not in answer.body
    await client.close()
    await nothing_moved(gate, sim)


async def test_45_what_only_the_operator_may_say_is_stripped(gate: Gate, sim: Sim) -> None:
    sim.provider.record = True
    sent = {
        "x-forwarded-for": "10.1.1.1",
        "forwarded": "for=10.1.1.1",
        "x-real-ip": "10.1.1.1",
        "x-credits-reserved": "1",
        "cookie": "a=b",
        "openai-organization": "org-other",
        "x-request-id": "chosen-by-client",
        "connection": "keep-alive, x-hop",
        "x-hop": "1",
    }
    answer = await gate.post("/v1/chat/completions", json.loads(GOOD), headers=sent)
    assert answer.status_code == 200
    row = sim.provider.served.rows[-1]
    assert row.headers is not None
    seen = {name.lower(): value for name, value in row.headers}
    for name in sent:
        if name not in ("connection", "x-request-id"):
            assert name not in seen, name
    assert seen["x-request-id"] == answer.headers["x-request-id"] != "chosen-by-client"
    assert KEY not in json.dumps(seen)


async def test_46_a_key_that_is_none_is_401_in_words(
    gate: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "
    for key in ("x\x01y", "k" * 7000, "schl\u00fcssel", "sk-unknown", "", " "):
        with subtests.test(repr(key[:20])):
            client = await RawClient.connect(port_of(gate))
            length = b"\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
            client.send(head + key.encode("utf-8") + length + GOOD)
            answer = await client.answer()
            assert answer.status in (400, 401)
            assert json.loads(answer.body)["error"]["message"]
            await client.close()
            await nothing_moved(gate, sim)


async def test_48_absurd_or_missing_usage_is_flagged_in_one_capped_event(
    gate: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    for problem, flag, source in (
        ("negative", "usage_absurd", "estimated"),
        ("huge", "usage_absurd", "estimated"),
        ("missing", "usage_missing", "counted"),
        ("null", "usage_missing", "counted"),
    ):
        with subtests.test(problem):
            event = await charge_of(gate, f"hi\nsim: tokens=5 usage={problem}", max_tokens=8)
            assert flag in event.facts["flags"]
            assert event.facts["usage_source"] == source
            assert 0 < event.amount_nano <= event.estimated_amount_nano


async def test_52_a_list_of_prompts_multiplies_the_bound(gate: Gate, sim: Sim) -> None:
    for prompt in ("hi", ["hi", "ho", "ha"]):
        answer = await gate.post(
            "/v1/completions", {"model": "small", "prompt": prompt, "max_tokens": 100}
        )
        assert answer.status_code == 200, answer.text
    one, three = [event.estimated_amount_nano for event in await settled(gate)]
    assert three - one >= 2 * 100 * 4000


async def test_53_an_image_by_url_is_refused_where_nothing_bounds_it(gate: Gate, sim: Sim) -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    answer = await send(gate, with_part(part))
    assert answer.status == 400
    message = json.loads(answer.body)["error"]["message"]
    assert "`media_tokens.image`" in message
    assert "`context_tokens`" in message
    await nothing_moved(gate, sim)


async def test_54_a_coded_answer_is_metered_all_the_same(
    gate: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    for coding, stream in product(("gzip", "br", "zstd"), (False, True)):
        with subtests.test(f"{coding}, {stream=}"):
            content = f"hi\nsim: tokens=7 coding={coding}"
            event = await charge_of(gate, content, stream=stream, max_tokens=8)
            assert event.facts["usage_source"] == "provider_reported"
            assert event.usage["output"] == 7


async def test_17_expect_continue_without_credit_is_402_and_no_100(gate: Gate, sim: Sim) -> None:
    client = await RawClient.connect(port_of(gate))
    client.send(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {BROKE_KEY}\r\n"
        f"Expect: 100-continue\r\nContent-Length: {len(GOOD)}\r\n\r\n".encode()
    )
    assert (await client.answer()).status == 402
    await client.close()
    await nothing_moved(gate, sim)


async def nothing_moved(gate: Gate, sim: Sim) -> None:
    """No POST upstream, no event, no hold, no debit."""
    await gate.settle_all()
    assert sim.provider.served.posts == 0
    assert await gate.events() == []
    assert (await gate.held_nano(), await gate.settled_nano()) == (0, 0)


async def settled(gate: Gate) -> list[Any]:
    """The customer's events once nothing is on its way any more; holds are gone then."""
    await gate.settle_all()
    assert await gate.held_nano() == 0
    return await gate.events()


async def charge_of(gate: Gate, content: str, **fields: Any) -> Any:
    """The event of one answered chat."""
    answer = await gate.chat(content, **fields)
    assert answer.status_code == 200
    events = {event.facts["request_id"]: event for event in await settled(gate)}
    return events[answer.headers["x-request-id"]]
