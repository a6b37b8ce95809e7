"""The HTTP boundary through a complete gate, on raw sockets at both ends: what a request carries
upstream, what a response carries back, and the gate's own responses."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.probed_headers import PROBED_HEADERS
from tests.support.gate import KEY, Gate, digest, running_gate
from tests.support.rawhttp import RawAnswer, RawClient, Received, ScriptedUpstream

CREDENTIAL = "sk-upstream-secret"
USAGE = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "model": "small",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}],
    "usage": USAGE,
}
ASKED = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


class Provider:
    """An upstream that answers every request alike; what it got is in `requests`."""

    def __init__(self) -> None:
        self.status = b"200 OK"
        self.fields: list[bytes] = [b"content-type: application/json"]
        self.pieces = [json.dumps(CHAT).encode()]
        self.script = ScriptedUpstream(self.respond)

    async def respond(
        self, _: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = b"\r\n".join((b"HTTP/1.1 " + self.status, *self.fields))
        writer.write(head + b"\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in self.pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    @property
    def last(self) -> Received:
        return self.script.requests[-1]


@asynccontextmanager
async def boundary(
    tmp_path: Path, valkey_socket: Path, *, path: str = "", **changes: Any
) -> AsyncIterator[tuple[Gate, Provider]]:
    """A gate in front of such a provider. path: of its base URL; `upstream`: its further settings."""
    provider = Provider()
    own = changes.pop("upstream", {})
    async with provider.script.running():
        url = f"http://127.0.0.1:{provider.script.port}"
        credential = {"header": "authorization", "value": f"Bearer {CREDENTIAL}"}
        section = {"base_url": url + path, "credential": credential, **own}
        async with running_gate(
            tmp_path, valkey_socket, url, upstreams={"sim": section}, **changes
        ) as gate:
            yield gate, provider


async def send(
    gate: Gate,
    method: str = "POST",
    target: str = "/v1/chat/completions",
    fields: tuple[tuple[str, str], ...] = (("Authorization", f"Bearer {KEY}"),),
    body: bytes | None = None,
) -> RawAnswer:
    """Send these very bytes; a body gets a Content-Length unless it is already framed."""
    if body is None:
        body = json.dumps(ASKED).encode() if method == "POST" else b""
    lines = [f"{method} {target} HTTP/1.1", "Host: gate.example"]
    lines += [f"{name}: {value}" for name, value in fields]
    if body and "Transfer-Encoding" not in dict(fields):
        lines.append(f"Content-Length: {len(body)}")
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    client.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    answer = await client.answer(within_s=20, head_only=method == "HEAD")
    await client.close()
    return answer


KEYED = ("Authorization", f"Bearer {KEY}")


# What reaches the upstream


async def test_45_no_header_that_prices_or_routes_reaches_the_upstream(
    tmp_path: Path, valkey_socket: Path
) -> None:
    assert len(PROBED_HEADERS) >= 100
    async with boundary(tmp_path, valkey_socket) as (gate, provider):
        paths = {
            "/v1/chat/completions": ASKED,
            "/v1/messages": ASKED,
            "/v1beta/models/small:generateContent": {"contents": [{"parts": [{"text": "hi"}]}]},
        }
        for at in range(0, len(PROBED_HEADERS), 40):
            sent = tuple(PROBED_HEADERS[at : at + 40])
            for path, body in paths.items():
                asked = json.dumps(body).encode()
                answer = await send(gate, "POST", path, (KEYED, *sent), asked)
                assert answer.status == 200, answer.body
                got = {name for name, _ in provider.last.fields}
                passed = got & {name.lower() for name, _ in sent}
                assert not passed, f"{path}: {passed}"
                assert got <= {
                    *("host", "authorization", "content-type", "content-length"),
                    *("accept-encoding", "x-request-id"),
                }


async def test_45_what_the_configuration_names_reaches_it(
    tmp_path: Path, valkey_socket: Path
) -> None:
    named = ["x-vllm-priority", "x-title"]
    upstream = {"forward_headers": named, "allowed_betas": ["context-1m-2025-08-07"]}
    async with boundary(tmp_path, valkey_socket, upstream=upstream) as (gate, provider):
        sent = (
            ("X-vLLM-Priority", "0"),
            ("X-Title", "t"),
            ("x-other", "1"),
            ("anthropic-beta", "context-1m-2025-08-07, fast-mode-2026-02-01"),
        )
        answer = await send(gate, "POST", "/v1/messages?beta=true&x=1", (KEYED, *sent))
        assert answer.status == 200
        fields = dict(provider.last.fields)
        assert (fields["x-vllm-priority"], fields["x-title"]) == ("0", "t")
        assert fields["anthropic-beta"] == "context-1m-2025-08-07"
        assert "x-other" not in fields
        assert provider.last.head.startswith(b"POST /v1/messages?beta=true HTTP/1.1\r\n")


async def test_a_base_url_with_its_version_and_a_query_of_the_operator(
    tmp_path: Path, valkey_socket: Path
) -> None:
    upstream = {"query": {"api-version": "2025-04-01-preview"}}
    async with boundary(tmp_path, valkey_socket, path="/openai/v1/", upstream=upstream) as (
        gate,
        provider,
    ):
        answer = await send(gate, "POST", "/v1/chat/completions?api-version=mine&x=y")
        assert answer.status == 200
        line = provider.last.head.partition(b"\r\n")[0]
        assert line == b"POST /openai/v1/chat/completions?api-version=2025-04-01-preview HTTP/1.1"


async def test_21_a_coded_body_is_forwarded_decoded(tmp_path: Path, valkey_socket: Path) -> None:
    async with boundary(tmp_path, valkey_socket) as (gate, provider):
        long = [{"role": "user", "content": "x" * 100_000}]
        body = gzip.compress(json.dumps({**ASKED, "messages": long}).encode())
        coded = ("Content-Encoding", "gzip")
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        for answer in (
            await send(gate, fields=(KEYED, coded), body=body),
            await send(gate, fields=(KEYED, coded, ("Transfer-Encoding", "chunked")), body=chunked),
        ):
            assert answer.status == 200, answer.body
            assert json.loads(provider.last.body)["max_tokens"] == 8
            assert "content-encoding" not in dict(provider.last.fields)
        await gate.settle_all()
        for event in await gate.events():
            assert event.estimated_amount_nano > 100_000 * 1000, "the decoded text is held"


async def test_23_an_unknown_coding_says_which_are_known(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with boundary(tmp_path, valkey_socket) as (gate, provider):
        answer = await send(gate, fields=(KEYED, ("Content-Encoding", "gzip, gzip")))
        assert answer.status == 415
        assert answer.headers["accept-encoding"] == "gzip, deflate, br, zstd"
        assert provider.script.requests == []


# What comes back


async def test_only_what_describes_the_answer_comes_back(
    tmp_path: Path, valkey_socket: Path
) -> None:
    upstream = {"return_headers": ["x-model-version"]}
    async with boundary(tmp_path, valkey_socket, upstream=upstream) as (gate, provider):
        provider.fields += [
            b"retry-after: 3",
            b"openai-processing-ms: 12",
            b"x-model-version: 7",
            b"x-request-id: up-1",
            b"x-ratelimit-remaining-requests: 9",
            b"anthropic-ratelimit-requests-limit: 9",
            b"openai-organization: org",
            b"anthropic-organization-id: org",
            b"set-cookie: a=b",
            b"www-authenticate: Basic",
            b"x-accel-redirect: /secret",
            b"clear-site-data: *",
            b"x-credits-remaining: 99",
            b"x-credits-cost: 0",
            b"x-should-retry: true",
            b"x-error-source: gate",
            b"access-control-allow-origin: *",
            b"location: http://10.0.0.1/",
            b"server: internal-7",
        ]
        answer = await send(gate)
        assert answer.status == 200
        assert set(answer.headers) == {
            *("date", "content-length", "content-type", "retry-after", "openai-processing-ms"),
            *("x-model-version", "x-upstream-request-id", "x-request-id", "x-credits-reserved"),
            *("x-credits-remaining", "x-credits-cost"),
        }
        assert answer.headers["x-credits-remaining"] != "99"


KIND_OF_PATH = {
    "/v1/chat/completions": "openai",
    "/v1/messages": "anthropic",
    "/v1/messages/count_tokens": "anthropic",
    "/v1beta/models/small:generateContent": "gemini",
}


async def test_a_refused_credential_of_the_gate_is_502_in_the_gate_s_words(
    tmp_path: Path,
    valkey_socket: Path,
    capfd: pytest.CaptureFixture[str],
    subtests: pytest.Subtests,
) -> None:
    async with boundary(tmp_path, valkey_socket) as (gate, provider):
        provider.fields.append(b"www-authenticate: Bearer realm=provider")
        provider.pieces = [b'{"error":{"message":"Bad key ' + CREDENTIAL.encode() + b'"}}']
        statuses = (b"401 Unauthorized", b"403 Forbidden")
        for status, (path, kind) in product(statuses, KIND_OF_PATH.items()):
            with subtests.test(f"{status!r} {path}"):
                provider.status = status
                body = {"contents": [{"parts": [{"text": "hi"}]}]} if kind == "gemini" else ASKED
                answer = await send(gate, target=path, body=json.dumps(body).encode())
                refused_in_words(answer, kind)
        await gate.settle_all()
        events = await gate.events()
        assert len(events) == 8
        for event in events:
            assert (event.kind, event.amount_nano) == ("release", 0)
            assert "upstream_auth" in event.facts["flags"]
    logged = "".join(capfd.readouterr())
    assert "upstream_auth_failed" in logged
    assert CREDENTIAL not in logged


def refused_in_words(answer: RawAnswer, kind: str) -> None:
    """502 in the caller's dialect, with nothing of the upstream's."""
    assert (answer.status, answer.headers["x-should-retry"]) == (502, "false")
    assert "www-authenticate" not in answer.headers
    assert b"Bad key" not in answer.body
    document = json.loads(answer.body)
    if kind == "openai":
        assert document["error"]["code"] == "upstream_auth"
    elif kind == "anthropic":
        assert document["error"]["type"] == "api_error"
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
    else:
        assert document["error"]["status"] == "UNAVAILABLE"


async def test_a_refused_credential_is_502_also_when_the_answer_breaks_off(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with boundary(tmp_path, valkey_socket) as (gate, provider):

        async def break_off(
            _: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> bool:
            writer.write(b"HTTP/1.1 401 No\r\ncontent-length: 100\r\n\r\n{")
            return False

        provider.script.respond = break_off
        answer = await send(gate)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (502, "upstream_auth")
        event = await gate.one_event()
        assert (event.kind, event.amount_nano) == ("release", 0)


async def test_the_credential_is_blanked_wherever_it_is_echoed(
    tmp_path: Path, valkey_socket: Path, subtests: pytest.Subtests
) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": f"it is {CREDENTIAL}!"}}]}
    document = {**CHAT, "system_fingerprint": f"Bearer {CREDENTIAL}"}
    async with boundary(tmp_path, valkey_socket) as (gate, provider):
        for status, stream in product((b"200 OK", b"400 Bad Request", b"500 Oops"), (False, True)):
            with subtests.test(f"{status!r} {stream=}"):
                provider.status = status
                provider.fields = [
                    b"content-type: " + (b"text/event-stream" if stream else b"application/json"),
                    b"content-language: " + CREDENTIAL.encode(),
                ]
                events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
                text = events if stream else json.dumps(document)
                at = text.index(CREDENTIAL) + 7
                provider.pieces = [text[:at].encode(), text[at:].encode()]
                answer = await send(gate, body=json.dumps({**ASKED, "stream": stream}).encode())
                assert answer.status == int(status[:3])
                assert CREDENTIAL.encode() not in answer.body
                assert b"*" * len(CREDENTIAL) in answer.body
                assert answer.headers["content-language"] == "*" * len(CREDENTIAL)


# What the gate says itself


async def test_44_the_same_key_in_every_place_is_one_key(
    tmp_path: Path, valkey_socket: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gemini = "/v1beta/models/small:generateContent"
    asked = json.dumps({"contents": [{"parts": [{"text": "hi"}]}]}).encode()
    async with boundary(tmp_path, valkey_socket) as (gate, provider):
        for fields in (
            (KEYED, ("x-api-key", KEY)),
            (KEYED, ("x-api-key", "")),
            (("Authorization", "Bearer "), ("api-key", KEY)),
            (("api-key", KEY),),
            (("x-goog-api-key", KEY),),
        ):
            assert (await send(gate, fields=fields)).status == 200, fields
            got = dict(provider.last.fields)
            assert KEY not in str(got)
        for target in (f"{gemini}?key={KEY}", f"{gemini}?alt=json&key={KEY}"):
            assert (await send(gate, target=target, fields=(), body=asked)).status == 200
            assert KEY.encode() not in provider.last.head
        listed = await send(gate, "GET", f"/v1beta/models?key={KEY}", ())
        assert listed.status == 200
        two = await send(gate, target=f"{gemini}?key={KEY}", fields=(("x-goog-api-key", "other"),))
        assert (two.status, two.headers["www-authenticate"]) == (401, "Bearer")
    assert KEY not in "".join(capfd.readouterr())


async def test_gemini_s_list_of_models(tmp_path: Path, valkey_socket: Path) -> None:
    async with boundary(tmp_path, valkey_socket) as (gate, _):
        listed = json.loads((await send(gate, "GET", "/v1beta/models?pageSize=50")).body)
        by_name = {model["name"]: model for model in listed["models"]}
        assert by_name.keys() == {"models/small", "models/dear"}
        one = json.loads((await send(gate, "GET", "/v1beta/models/small")).body)
        assert one == by_name["models/small"]
        assert one["outputTokenLimit"] == 4096
        missing = await send(gate, "GET", "/v1beta/models/other")
        assert json.loads(missing.body)["error"]["status"] == "NOT_FOUND"
        stranger = await send(gate, "GET", "/v1beta/models", ())
        assert json.loads(stranger.body)["error"]["status"] == "UNAUTHENTICATED"


async def test_an_unknown_path_is_answered_in_the_dialect_that_it_suggests(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with boundary(tmp_path, valkey_socket) as (gate, _):
        gemini = await send(gate, "GET", "/v1beta/files")
        assert json.loads(gemini.body)["error"]["status"] == "NOT_FOUND"
        for path, fields in (
            ("/v1/messages/batches", ()),
            ("/v1/files", (("anthropic-version", "2023-06-01"),)),
        ):
            answer = await send(gate, "GET", path, fields)
            document = json.loads(answer.body)
            assert (answer.status, document["error"]["type"]) == (404, "not_found_error")
            assert answer.headers["request-id"] == document["request_id"]
        openai = json.loads((await send(gate, "GET", "/v1/files")).body)
        assert openai["error"]["code"] == "unknown_url"


async def test_405_says_what_is_allowed_in_the_path_s_dialect(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with boundary(tmp_path, valkey_socket) as (gate, _):
        chat = await send(gate, "GET", "/v1/chat/completions")
        assert (chat.status, chat.headers["allow"]) == (405, "POST")
        models = await send(gate, "DELETE", "/v1/models")
        assert (models.status, models.headers["allow"]) == (405, "GET, HEAD")
        messages = await send(gate, "GET", "/v1/messages")
        assert json.loads(messages.body)["type"] == "error"
        gemini = await send(gate, "GET", "/v1/models/small:generateContent")
        assert json.loads(gemini.body)["error"]["status"] == "UNIMPLEMENTED"


async def test_anthropic_s_name_of_the_request_id(tmp_path: Path, valkey_socket: Path) -> None:
    async with boundary(tmp_path, valkey_socket) as (gate, _):
        messages = await send(gate, target="/v1/messages")
        assert messages.headers["request-id"] == messages.headers["x-request-id"]
        assert "request-id" not in (await send(gate)).headers


PAGE = ("Origin", "https://app.example.com")
PREFLIGHT = (
    PAGE,
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-lang"),
)


async def test_cors_is_off_unless_configured(tmp_path: Path, valkey_socket: Path) -> None:
    async with boundary(tmp_path, valkey_socket) as (gate, _):
        preflight = await send(gate, "OPTIONS", fields=PREFLIGHT)
        assert preflight.status == 405
        answer = await send(gate, fields=(KEYED, PAGE))
        assert not [n for n in answer.headers if n.startswith("access-control-") or n == "vary"]


async def test_cors_for_listed_origins(tmp_path: Path, valkey_socket: Path) -> None:
    cors = {"origins": ["https://app.example.com", "http://localhost:5173"]}
    async with boundary(tmp_path, valkey_socket, cors=cors) as (gate, provider):
        preflight = await send(gate, "OPTIONS", fields=PREFLIGHT)
        assert (preflight.status, preflight.body) == (204, b"")
        allowed = preflight.headers
        assert allowed["access-control-allow-origin"] == PAGE[1]
        assert "POST" in allowed["access-control-allow-methods"]
        assert allowed["access-control-allow-headers"] == PREFLIGHT[2][1]
        assert provider.script.requests == []
        for fields, target, status in (
            ((KEYED, PAGE), "/v1/chat/completions", 200),
            ((PAGE,), "/v1/chat/completions", 401),
            ((KEYED, PAGE), "/v1/nothing", 404),
        ):
            answer = await send(gate, target=target, fields=fields)
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == PAGE[1]
            assert answer.headers["vary"] == "origin"
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"x-request-id", "x-credits-cost", "x-credits-remaining"} <= set(exposed)
        other = (("Origin", "https://evil.example"), *PREFLIGHT[1:])
        refused = await send(gate, "OPTIONS", fields=other)
        assert "access-control-allow-origin" not in refused.headers
        plain = await send(gate, "OPTIONS", fields=(PAGE,))
        assert plain.status == 405, "without the question it is a request like any other"


async def test_the_customer_s_own_limits_are_told_by_openai_s_names(
    tmp_path: Path, valkey_socket: Path
) -> None:
    customers = {
        "acme": {
            "grants": [{"name": "start", "amount": "10.00", "category": "paid"}],
            "keys": [{"id": "k_acme", "sha256": digest(KEY)}],
            "limits": [
                {"scope": "customer", "measure": "requests", "window": "minute", "ceiling": 2},
                {"scope": "customer", "measure": "requests", "window": "day", "ceiling": 100},
                {"scope": "customer", "measure": "tokens", "window": "hour", "ceiling": 50_000},
            ],
        }
    }
    async with boundary(tmp_path, valkey_socket, customers=customers) as (gate, provider):
        provider.fields.append(b"x-ratelimit-limit-requests: 30000")
        for _ in range(2):
            answer = await send(gate)
            assert answer.status == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-limit-tokens"] == "50000"
            assert answer.headers["x-ratelimit-reset-requests"] == "1m5s"
            assert answer.headers["x-ratelimit-reset-tokens"]
        refused = await send(gate)
        assert refused.status == 429
        assert refused.headers["x-ratelimit-limit-requests"] == "2"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
