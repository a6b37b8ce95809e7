"""The official SDKs take the gate's refusals for what they are: fed over a real socket."""

import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

import anthropic
import openai
import orjson
import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import Refusal, RefusalKind
from gateway.dialects.models import list_models, show_model

KINDS: tuple[RefusalKind, ...] = get_args(RefusalKind)
HELLO: list[Any] = [{"role": "user", "content": "hi"}]


@dataclass
class Answering:
    """A local server that gives every request the same answer."""

    url: str
    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def answering() -> Iterator[Answering]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def do_GET(self) -> None:
            answer.asked.append(self.path)
            self.send_response(answer.status)
            self.send_header("content-type", answer.kind)
            self.send_header("content-length", str(len(answer.body)))
            self.send_header("x-should-retry", "false")
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answer = Answering(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


def openai_client(answering: Answering) -> openai.OpenAI:
    return openai.OpenAI(base_url=answering.url + "/v1", api_key="k", max_retries=0)


def anthropic_client(answering: Answering) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=answering.url, api_key="k", max_retries=0)


OPENAI_ERRORS: list[tuple[RefusalKind, type[openai.APIStatusError], int, str | None]] = [
    ("no_credit", openai.APIStatusError, 402, "credit_balance_exhausted"),
    ("account_frozen", openai.APIStatusError, 402, "account_frozen"),
    ("credit_held", openai.RateLimitError, 429, "credit_held"),
    ("rate_limited", openai.RateLimitError, 429, "rate_limit_exceeded"),
    ("bad_key", openai.AuthenticationError, 401, "invalid_api_key"),
    ("forbidden_model", openai.PermissionDeniedError, 403, "model_not_found"),
    ("unknown_model", openai.NotFoundError, 404, "model_not_found"),
    ("not_found", openai.NotFoundError, 404, "unknown_url"),
    ("bad_request", openai.BadRequestError, 400, None),
    ("conflict", openai.ConflictError, 409, "conflict"),
    ("unprocessable", openai.UnprocessableEntityError, 422, None),
    ("too_large", openai.APIStatusError, 413, "request_too_large"),
    ("ledger_unavailable", openai.InternalServerError, 503, "ledger_unavailable"),
    ("upstream_unreachable", openai.InternalServerError, 502, "upstream_unreachable"),
    ("upstream_timeout", openai.InternalServerError, 504, "upstream_timeout"),
]


@pytest.mark.parametrize(("kind", "error", "status", "code"), OPENAI_ERRORS)
def test_openai_raises_the_proper_error(
    answering: Answering,
    kind: RefusalKind,
    error: type[openai.APIStatusError],
    status: int,
    code: str | None,
) -> None:
    refusal = Refusal(kind, "Because.", "req_1", param="messages", detail={"reason": "why"})
    answering.status, answering.body = DIALECTS["openai_chat"].refusal(refusal)
    with pytest.raises(error) as raised:
        openai_client(answering).chat.completions.create(model="m", messages=HELLO)
    assert raised.value.status_code == status
    assert raised.value.code == code
    assert raised.value.param == "messages"
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["metadata"] == {"reason": "why"}
    assert "Because." in raised.value.message


def test_a_lack_of_credit_is_typed_insufficient_quota() -> None:
    refusal = Refusal("no_credit", "No.", "req_1", status=429)
    status, body = DIALECTS["openai_chat"].refusal(refusal)
    assert status == 429
    assert orjson.loads(body) == {
        "error": {
            "message": "No.",
            "type": "insufficient_quota",
            "param": None,
            "code": "credit_balance_exhausted",
        }
    }


ANTHROPIC_ERRORS: list[tuple[RefusalKind, type[anthropic.APIStatusError], int, str]] = [
    ("no_credit", anthropic.APIStatusError, 402, "billing_error"),
    ("account_frozen", anthropic.APIStatusError, 402, "billing_error"),
    ("credit_held", anthropic.RateLimitError, 429, "rate_limit_error"),
    ("bad_key", anthropic.AuthenticationError, 401, "authentication_error"),
    ("forbidden_model", anthropic.PermissionDeniedError, 403, "not_found_error"),
    ("unknown_model", anthropic.NotFoundError, 404, "not_found_error"),
    ("bad_request", anthropic.BadRequestError, 400, "invalid_request_error"),
    ("too_large", anthropic.APIStatusError, 413, "request_too_large"),
    ("ledger_unavailable", anthropic.APIStatusError, 503, "overloaded_error"),
    ("upstream_timeout", anthropic.APIStatusError, 504, "timeout_error"),
]


@pytest.mark.parametrize(("kind", "error", "status", "type_"), ANTHROPIC_ERRORS)
def test_anthropic_raises_the_proper_error(
    answering: Answering,
    kind: RefusalKind,
    error: type[anthropic.APIStatusError],
    status: int,
    type_: str,
) -> None:
    refusal = Refusal(kind, "Because.", "req_1")
    answering.status, answering.body = DIALECTS["anthropic_messages"].refusal(refusal)
    with pytest.raises(error) as raised:
        anthropic_client(answering).messages.create(model="m", max_tokens=5, messages=HELLO)
    assert raised.value.status_code == status
    assert raised.value.body == {
        "type": "error",
        "error": {"type": type_, "message": "Because."},
        "request_id": "req_1",
    }


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_refusal_has_words_in_every_dialect(name: str, kind: RefusalKind) -> None:
    status, body = DIALECTS[name].refusal(Refusal(kind, "Because.", "req_1"))
    assert 400 <= status < 600
    assert orjson.loads(body)["error"]["message"] == "Because."


CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
)
ENDING = Refusal("no_credit", "The credit was used up.", "req_1")


def test_openai_sees_a_stream_end_in_an_error(answering: Answering) -> None:
    answering.kind = "text/event-stream"
    answering.body = CHUNK + DIALECTS["openai_chat"].error_frame(ENDING)
    stream = openai_client(answering).chat.completions.create(
        model="m", messages=HELLO, stream=True
    )
    with pytest.raises(openai.APIError, match="used up") as raised:
        assert [c.choices[0].delta.content for c in stream] == ["Hi"]
    assert raised.value.code == "credit_balance_exhausted"


def test_openai_completions_see_a_stream_end_in_an_error(answering: Answering) -> None:
    answering.kind = "text/event-stream"
    answering.body = DIALECTS["openai_completions"].error_frame(ENDING)
    stream = openai_client(answering).completions.create(model="m", prompt="hi", stream=True)
    with pytest.raises(openai.APIError, match="used up"):
        list(stream)


def test_an_error_chunk_never_looks_like_a_finished_answer() -> None:
    for name in ("openai_chat", "openai_completions"):
        frame = DIALECTS[name].error_frame(ENDING)
        assert frame.startswith(b"data: {")
        assert frame.endswith(b"\n\ndata: [DONE]\n\n")
        chunk = orjson.loads(frame.split(b"\n\n")[0][6:])
        assert chunk["choices"][0]["finish_reason"] == "error"
        assert chunk["error"]["code"] == "credit_balance_exhausted"


def test_openai_sees_a_response_end_in_an_error(answering: Answering) -> None:
    answering.kind = "text/event-stream"
    delta = {
        "type": "response.output_text.delta",
        "sequence_number": 1,
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "Hi",
        "logprobs": [],
    }
    begun = b"event: response.output_text.delta\ndata: " + orjson.dumps(delta) + b"\n\n"
    answering.body = begun + DIALECTS["openai_responses"].error_frame(ENDING)
    stream = openai_client(answering).responses.create(model="m", input="hi", stream=True)
    with pytest.raises(openai.APIError, match="used up") as raised:
        assert [event.type for event in stream] == ["response.output_text.delta"]
    assert raised.value.code == "credit_balance_exhausted"


def test_anthropic_sees_a_stream_end_in_an_error(answering: Answering) -> None:
    answering.kind = "text/event-stream"
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    answering.body = ping + DIALECTS["anthropic_messages"].error_frame(ENDING)
    stream = anthropic_client(answering).messages.create(
        model="m", max_tokens=5, messages=HELLO, stream=True
    )
    with pytest.raises(anthropic.APIStatusError, match="used up"):
        list(stream)


@pytest.mark.parametrize("name", ["openai_embeddings", "generic"])
def test_what_does_not_stream_has_no_error_frame(name: str) -> None:
    assert DIALECTS[name].error_frame(ENDING) == b""


def test_the_sdks_list_models(answering: Answering) -> None:
    answering.body = list_models(["a", "b"], 1_760_000_000, anthropic=False)
    assert [model.id for model in openai_client(answering).models.list()] == ["a", "b"]
    answering.body = show_model("a", 1_760_000_000, anthropic=False)
    assert openai_client(answering).models.retrieve("a").created == 1_760_000_000
    answering.body = list_models(["a", "b"], 1_760_000_000, anthropic=True)
    assert [model.id for model in anthropic_client(answering).models.list()] == ["a", "b"]
    answering.body = show_model("a", 1_760_000_000, anthropic=True)
    shown = anthropic_client(answering).models.retrieve("a")
    assert shown.created_at.isoformat() == "2025-10-09T08:53:20+00:00"


def test_no_models_is_an_empty_list() -> None:
    assert orjson.loads(list_models([], 1, anthropic=False)) == {"object": "list", "data": []}
    assert orjson.loads(list_models([], 1, anthropic=True))["first_id"] is None
