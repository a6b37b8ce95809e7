"""The real llama.cpp server: it starts, answers in every shape the gate meters, and goes away."""

import httpx
import pytest

from tests.support.upstreams import llama_server

__all__ = ["llama_server"]
pytestmark = pytest.mark.model

MESSAGES = [{"role": "user", "content": "Count to three."}]


def test_it_answers_chat_stream_responses_and_messages_with_usage(llama_server: str) -> None:
    # this server drops connections after a stream: one connection a request
    fresh = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=llama_server, timeout=60, limits=fresh) as client:
        chat = client.post("/v1/chat/completions", json={"max_tokens": 4, "messages": MESSAGES})
        assert 1 <= chat.json()["usage"]["completion_tokens"] <= 4
        stream = client.post(
            "/v1/chat/completions",
            json={
                "max_tokens": 4,
                "messages": MESSAGES,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        )
        assert '"usage":{"completion_tokens":' in stream.text
        responses = client.post("/v1/responses", json={"max_output_tokens": 4, "input": "Hi"})
        assert responses.json()["usage"]["output_tokens"] <= 4
        message = client.post("/v1/messages", json={"max_tokens": 4, "messages": MESSAGES})
        assert message.json()["usage"]["output_tokens"] <= 4
