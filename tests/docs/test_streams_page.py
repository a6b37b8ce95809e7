"""The worked examples of docs/explanation/streams.md, through a whole gate: each policy as it stands there, in
front of an upstream that sends so many tokens and pauses where the caller leaves."""

import asyncio
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from gateway.domain.money import format_amount
from tests.support.gate import KEY, Gate, digest, running_gate
from tests.support.rawhttp import RawClient, Received, ScriptedUpstream
from tests.support.until import until

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "streams.md").read_text()
BLOCKS = re.findall(r"```yaml\n([^`]*)```\n((?:- .*\n)+)", PAGE)
EXAMPLES = [(policy, line) for policy, lines in BLOCKS for line in lines.splitlines()]
ASKED = re.compile(
    r"- credit (?P<credit>[\d.]+), max_tokens (?P<most>\d+)"
    r"(?:, after (?P<learned>\d+) answers of (?P<learned_tokens>\d+) tokens)?"
    r", (?P<tokens>\d+) tokens(?:, (?P<how>left|killed|stopped) after (?P<after>\d+))?"
    r" → (?P<result>.*)"
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(document: dict[str, Any] | None) -> bytes:
    data = b"data: " + (orjson.dumps(document) if document else b"[DONE]") + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


class Paused:
    """Sends the tokens that the caller's message names, no more than its maximum; after some of them
    it waits for the test."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(
        self, received: Received, _: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        body = orjson.loads(received.body)
        tokens, pause = map(int, body["messages"][0]["content"].split())
        tokens = min(tokens, body["max_tokens"])
        writer.write(HEAD)
        for number in range(1, tokens + 1):
            choice = {"index": 0, "delta": {"content": "w"}, "finish_reason": None}
            writer.write(chunk({"id": "c", "choices": [choice]}))
            if number == pause:
                await self.go_on.wait()
            elif number % 10 == 0:
                await writer.drain()
                await asyncio.sleep(0.002)
        usage = {"prompt_tokens": 5, "completion_tokens": tokens}
        writer.write(chunk({"id": "c", "choices": [], "usage": usage}) + chunk(None) + b"0\r\n\r\n")


def customers(credit: str) -> dict[str, Any]:
    grant = {"name": "start", "amount": credit, "category": "paid"}
    return {"acme": {"grants": [grant], "keys": [{"id": "k_acme", "sha256": digest(KEY)}]}}


async def leave(gate: Gate, tokens: int, after: int, most: int) -> str:
    """Read so many tokens of a stream and reset the connection; answers its head."""
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    messages = [{"role": "user", "content": f"{tokens} {after}"}]
    body = {"model": "small", "stream": True, "max_tokens": most, "messages": messages}
    content = orjson.dumps(body)
    client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        + f"Authorization: Bearer {KEY}\r\n".encode()
        + b"Content-Length: %d\r\n\r\n" % len(content)
        + content
    )
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
    for _ in range(after):
        await client.reader.readuntil(b'"w"')
    client.reset()
    return head


async def kill_after(gate: Gate, after: int) -> None:
    """Kill the wallet when so many tokens have come."""
    live = gate.service.live
    await until(lambda: any(run.facts.counted_output == after for run in live))
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    await gate.ledger.account("acme", account_rev=wallet.account_rev + 1, killed=True)
    gate.service.live.look_at("acme")


async def stop_after(gate: Gate, after: int) -> None:
    """Stop the gate's running answers, as at the end of the drain grace."""
    live = gate.service.live
    await until(lambda: any(run.facts.counted_output == after for run in live))
    gate.service.live.stop_running()


async def outcome(gate: Gate, upstream: Paused, asked: dict[str, str | None]) -> str:
    """What became of an example, in the page's words."""
    tokens, most = int(asked["tokens"] or 0), int(asked["most"] or 0)
    for _ in range(int(asked["learned"] or 0)):
        answer = await gate.chat(
            f"{asked['learned_tokens']} 0",
            stream=True,
            max_tokens=int(asked["learned_tokens"] or 0),
        )
        assert answer.status_code == 200
    await gate.settle_all()
    before = await gate.settled_nano()
    after = int(asked["after"] or 0)
    text = ""
    if asked["how"] == "left":
        head = await leave(gate, tokens, after, most)
        fields = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:-2])
        await asyncio.sleep(0.05)
        upstream.go_on.set()
    else:
        asking = asyncio.create_task(gate.chat(f"{tokens} {after}", stream=True, max_tokens=most))
        if asked["how"] == "killed":
            await kill_after(gate, after)
        elif asked["how"] == "stopped":
            await stop_after(gate, after)
        answer = await asking
        if answer.status_code != 200:
            return str(answer.status_code)
        fields, text = dict(answer.headers), answer.text
    await until(lambda: not gate.service.live)
    await gate.settle_all()
    charged = await gate.settled_nano() - before
    told = [f"reserved {fields['x-credits-reserved']}", f"charged {format_amount(charged)}"]
    flags = (await gate.events())[-1].facts["flags"]
    if '"finish_reason":"error"' in text:
        told.append("cut" if "cut" in flags else "error")
    if "x-credits-max-tokens" in fields:
        told.append(f"max {fields['x-credits-max-tokens']}")
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    if wallet.overdraft_nano:
        told.append(f"balance {format_amount(-wallet.overdraft_nano)}")
    assert wallet.held_nano == 0
    return ", ".join(told)


def test_every_policy_on_the_page_has_an_example() -> None:
    assert len(BLOCKS) == PAGE.count("```yaml") == 14
    assert len(EXAMPLES) == PAGE.count(" → ") == 22


@pytest.mark.parametrize(("policy", "example"), EXAMPLES)
async def test_a_worked_example_is_what_a_gate_does(
    tmp_path: Path, valkey_socket: Path, policy: str, example: str
) -> None:
    match = ASKED.fullmatch(example)
    assert match is not None
    asked = match.groupdict()
    paused = Paused()
    upstream = ScriptedUpstream(paused)
    model = {
        "upstream": "sim",
        "prices": {"input": "0", "output": "1000.00"},
        "max_output_tokens": 4096,
    }
    async with upstream.running():
        url = f"http://127.0.0.1:{upstream.port}"
        async with running_gate(
            tmp_path,
            valkey_socket,
            url,
            policy=yaml.safe_load(policy),
            customers=customers(asked["credit"] or ""),
            models={"small": model},
        ) as gate:
            assert await outcome(gate, paused, asked) == asked["result"]
            paused.go_on.set()
