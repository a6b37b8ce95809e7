"""Promise 20: a canary key and a canary prompt through every error path. Neither stands in any
log, metric, event, journal, in the ledger, or in what the gate itself answers.
"""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis.asyncio
import structlog

from gateway.dialects.reading.meters import DocumentMeter
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable, TooOld
from gateway.telemetry.logs import configure_logs
from tests.support.gate import Gate, digest, gate_config, running_gate
from tests.support.rawhttp import RawClient
from tests.support.until import until
from tests.support.upstreams import Sim

KEY = "sk-canary-key-4f1e9b"
PROMPT = "canary prompt 77c2a1"
UPSTREAM_KEY = "sk-canary-upstream-9d03"
CANARIES = (KEY, PROMPT, UPSTREAM_KEY)


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """The process's real logs in a file; the lines of requests go to stderr beside it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logs("worker-0", style="json")
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file:
        structlog.configure(logger_factory=structlog.BytesLoggerFactory(file))
        yield path
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def config(sim: Sim, **changes: Any) -> dict[str, Any]:
    """A customer whose key is the canary, behind an upstream whose credential is one too."""
    whole = gate_config(sim.url, Path("unused"), "unused")
    upstream = whole["upstreams"]["sim"]
    upstream["credential"] = {"value": f"Bearer {UPSTREAM_KEY}"}
    upstream["timeouts"] = {"connect_ms": 300, "head_ms": 300, "between_bytes_ms": 300}
    upstream["breaker"] = {"enabled": False}  # every kind of failure is to reach it
    customers = whole["customers"]
    customers["acme"]["keys"] = [{"id": "k_acme", "sha256": digest(KEY)}]
    customers["acme"]["limits"] = [{"measure": "concurrent", "ceiling": "6"}]
    dead = {"base_url": "http://127.0.0.1:9"}
    models = whole["models"]
    models["dead"] = {**models["small"], "upstream": "dead"}
    upstreams = {"sim": upstream, "dead": dead}
    return {"upstreams": upstreams, "models": models, "customers": customers, **changes}


async def everything_in(client: redis.asyncio.Redis) -> bytes:
    """Every key and every value of the ledger."""
    found: list[Any] = []
    async for key in client.scan_iter(count=1000):
        kind: Any = await client.type(key)
        match kind.decode():
            case "string":
                value: Any = await client.get(key)
            case "hash":
                value = await client.hgetall(key)
            case "set":
                value = await client.smembers(key)
            case "zset":
                value = await client.zrange(key, 0, -1)
            case "stream":
                value = await client.xrange(key)
            case other:
                raise AssertionError(f"a key of type {other}")
        found.append((key, value))
    return repr(found).encode()


def clean(where: str, text: str | bytes) -> None:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    for canary in CANARIES:
        assert canary not in said, f"{canary!r} appears in {where}"


HEADERS = {
    "authorization": f"Bearer {KEY}",
    "content-type": "application/json",
    "x-note": PROMPT,
    "user-agent": PROMPT,
}
CHAT = "/v1/chat/completions"


def chat(control: str = "", **fields: Any) -> bytes:
    messages = [{"role": "user", "content": f"{PROMPT}\n{control and f'sim: {control}'}"}]
    return orjson.dumps({"model": "small", "messages": messages, **fields})


def body(**fields: Any) -> bytes:
    return orjson.dumps({"model": "small", **fields})


FILE_INPUT = [{"role": "user", "content": [{"type": "input_file", "file_id": PROMPT}]}]

REFUSED: list[tuple[str, str, bytes, dict[str, str]]] = [
    ("unknown path", f"/v1/{PROMPT.replace(' ', '-')}x", chat(), {}),
    ("wrong key", CHAT, chat(), {"authorization": f"Bearer {UPSTREAM_KEY}"}),
    ("two keys", CHAT, chat(), {"x-api-key": UPSTREAM_KEY}),
    ("basic", CHAT, chat(), {"authorization": f"Basic {KEY}"}),
    ("key in the query", f"{CHAT}?key={UPSTREAM_KEY}", chat(), {"authorization": ""}),
    ("coded", CHAT, chat(), {"content-encoding": "gzip"}),
    ("not JSON", CHAT, PROMPT.encode(), {}),
    ("cut JSON", CHAT, chat()[:-9], {}),
    ("trailing", CHAT, chat() + PROMPT.encode(), {}),
    ("twice", CHAT, chat()[:-1] + b',"model":"' + PROMPT.encode() + b'"}', {}),
    ("bad type", CHAT, chat(max_tokens=PROMPT), {}),
    ("bad n", CHAT, chat(n=PROMPT), {}),
    ("bad messages", CHAT, body(messages=PROMPT), {}),
    ("bad message", CHAT, body(messages=[PROMPT]), {}),
    ("stateful", "/v1/responses", body(input=PROMPT, previous_response_id=PROMPT), {}),
    ("file", "/v1/responses", body(input=FILE_INPUT), {}),
    ("too much", CHAT, chat(max_tokens=10**6), {}),
    ("too dear", CHAT, chat(model="dear", n=128), {}),
    ("too large", CHAT, chat(user=PROMPT * 300_000), {}),
    ("surrogate", CHAT, chat()[:-1] + b',"user":"\\ud800' + PROMPT.encode() + b'"}', {}),
]

FORWARDED = [
    *("status=500", "status=429", "rst=before_head", "rst=after_head", "hang=before_head"),
    *("cut=3", "usage=negative", "usage=missing", "usage=string", "error_at=2", "coding=gzip"),
    *("hang=after_head", "tokens=900", "tokens=3"),
]


async def refusals(gate: Gate) -> None:
    """Everything that the gate refuses, and that what it answers is clean."""
    for name, path, body, changes in REFUSED:
        headers = {k: v for k, v in {**HEADERS, **changes}.items() if v}
        answer = await gate.client.post(path, content=body, headers=headers)
        assert 400 <= answer.status_code < 500, f"{name}: {answer.status_code}"
        if name != "unknown path":  # it is repeated to whoever sent it
            clean(f"the answer to: {name}", answer.content)


async def ask(gate: Gate, body: bytes, **headers: str) -> httpx.Response:
    return await gate.client.post(CHAT, content=body, headers={**HEADERS, **headers})


async def leave(gate: Gate, body: bytes) -> None:
    """Ask, and reset the connection before the end."""
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    client.send(
        f"POST {CHAT} HTTP/1.1\r\nhost: a\r\n{head}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await asyncio.sleep(0.15)
    client.reset()


async def test_no_canary_anywhere(
    tmp_path: Path,
    valkey_socket: Path,
    valkey: redis.asyncio.Redis,
    sim: Sim,
    log_file: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url, **config(sim)) as gate:
        await refusals(gate)
        for control in FORWARDED:
            for stream in (False, True):
                await ask(gate, chat(control, stream=stream, max_tokens=1000))
        assert (await ask(gate, chat(model="dead"))).status_code == 502
        for body in (chat("tokens=50 itl_ms=20", stream=True), chat("ttft_ms=250 tokens=3")):
            await leave(gate, body)

        # Faults of the gate's own, and of the ledger.
        with monkeypatch.context() as broken:

            def fail(*_: object) -> bytes:
                raise RuntimeError(f"{KEY} {PROMPT}")

            broken.setattr(DocumentMeter, "feed", fail)
            answer = await ask(gate, chat("tokens=3"))
            assert answer.status_code == 500
            clean("the answer to a fault", answer.content)
        for script, fault in (
            ("reserve", LedgerUnavailable(PROMPT, unknown=True)),
            ("reserve", LedgerBug(PROMPT)),
            ("settle", TooOld(PROMPT)),
            ("settle", LedgerBug(PROMPT)),
            ("settle", LedgerUnavailable(PROMPT)),
        ):
            await fail_once(gate, monkeypatch, script, fault)
        await until(lambda: not gate.live)
        await gate.settle_all()
        await gate.service.ledger.refusals.flush()
        clean("the metrics", orjson.dumps(gate.service.snapshot()))
        clean("the ledger", await everything_in(valkey))
        for file in (tmp_path / "data").rglob("*"):
            if file.is_file() and file.suffix != ".rejected":
                clean(file.name, file.read_bytes())
    _, requests = capfd.readouterr()
    assert requests.count('"event":"request"') > 50
    clean("the requests' lines", requests)
    log = await asyncio.to_thread(log_file.read_bytes)
    said = {orjson.loads(line)["event"] for line in log.splitlines()}
    assert {"request_failed", "ending_set_aside"} <= said
    clean("the log", log)
    assert sim.provider.served.posts > 20, "they were let through, so there was something to leak"


async def fail_once(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, script: str, fault: Exception
) -> None:
    """One request whose script of this name fails so."""
    service = gate.service
    ledger: Any = service.ledger.reserving if script == "reserve" else service.delivery.ledger
    working = ledger._runner.run
    waiting = [fault]

    async def run(called: Any, keys: Any, args: Any) -> Any:
        if called.name == script and waiting:
            raise waiting.pop()
        return await working(called, keys, args)

    with monkeypatch.context() as failing:
        failing.setattr(ledger._runner, "run", run)
        answer = await ask(gate, chat("tokens=3"))
        assert answer.status_code in (200, 500, 503)
        clean(f"the answer when {script} fails", answer.content if answer.is_error else b"")
        await gate.settle_all()
    assert not waiting
