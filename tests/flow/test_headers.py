"""What passes the gate in either direction, and what ends here."""

import pytest

from gateway.dialects.passing import REQUEST_FIELDS
from gateway.flow.headers import Forwarding, Passing, ResponseHead, Returning
from gateway.http.interface import FieldNames
from tests.e2e.probed_headers import PROBED_HEADERS
from tests.support.fields import parse_fields

CREDENTIAL = ((b"Authorization", b"Bearer upstream"), (b"x-org", b"o"))


def forwarded(
    *sent: tuple[str, str], connection: str | None = None, internal: tuple[str, ...] = ()
) -> list[tuple[bytes, bytes]]:
    """The caller's fields that pass: without what the gate adds itself."""
    passing = Passing(internal=frozenset(internal))
    fields = parse_fields(Forwarding((), passing).fields(sent, connection, api="anthropic"))
    assert fields[-2:] == [
        (b"content-type", b"application/json"),
        (b"accept-encoding", b"identity"),
    ]
    return fields[:-2]


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "X-Api-Key", "x-goog-api-key", "api-key", "Cookie"),
        *("Host", "Content-Length", "Transfer-Encoding", "TE", "Trailer", "Upgrade", "Expect"),
        *("Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Connection"),
        *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via"),
        *("Accept-Encoding", "Content-Encoding", "X-Request-Id", "X-Original-URL"),
        *("x-credits-trailer", "X-Creditgate-Customer"),
        *("OpenAI-Organization", "OpenAI-Project"),
    ],
)
def test_what_is_the_gate_s_or_the_operator_s_to_say_ends_here(name: str) -> None:
    assert forwarded((name, "secret")) == []
    assert forwarded((name.upper(), "secret")) == []


def test_what_the_api_defines_passes_as_sent() -> None:
    sent = [("X-Stainless-Lang", "python"), ("anthropic-version", "2023-06-01"), ("accept", "ü")]
    assert forwarded(*sent) == [(n.encode(), v.encode()) for n, v in sent]


def test_what_another_api_defines_or_nobody_ends_here() -> None:
    sent = [("anthropic-version", "1"), ("x-anything", "1"), ("x-client-request-id", "c")]
    fields = parse_fields(Forwarding().fields(sent, None, None, "openai"))
    assert fields[:-1] == [(b"x-client-request-id", b"c")]


@pytest.mark.parametrize("api", REQUEST_FIELDS)
def test_nothing_that_prices_or_routes_passes_in_any_api(api: str) -> None:
    for name, value in PROBED_HEADERS:
        fields = parse_fields(Forwarding().fields([(name, value)], None, None, api))
        assert len(fields) == 1, f"{name}: {value}"


def test_the_credential_takes_the_place_of_whatever_the_caller_sent() -> None:
    passing = Passing(request=frozenset({"x-org", "x-other"}))
    sent = [("X-ORG", "theirs"), ("x-other", "1")]
    fields = parse_fields(Forwarding(CREDENTIAL, passing).fields(sent, None))
    assert fields[:3] == [(b"x-other", b"1"), *CREDENTIAL]


def test_what_a_trusted_gateway_says_of_its_customers_is_not_told_upstream() -> None:
    assert forwarded(("User-Agent", "acme"), internal=("user-agent",)) == []
    assert forwarded(("User-Agent", "acme")) == [(b"User-Agent", b"acme")]


@pytest.mark.parametrize("connection", ["accept", "keep-alive, Accept", "close,accept"])
def test_fields_that_connection_names_are_hop_by_hop(connection: str) -> None:
    sent = [("Accept", "1"), ("user-agent", "2")]
    assert forwarded(*sent, connection=connection) == [(b"user-agent", b"2")]
    assert len(forwarded(("Accept", "1"), connection="keep-alive")) == 1


def test_betas_pass_one_by_one() -> None:
    known = "interleaved-thinking-2025-05-14"
    sent = ("anthropic-beta", f"context-1m-2025-08-07, {known},fast-mode-2026-02-01")
    assert forwarded(sent) == [(b"anthropic-beta", known.encode())]
    assert forwarded(("anthropic-beta", "context-1m-2025-08-07")) == []
    allowing = Forwarding((), Passing(betas=frozenset({"context-1m-2025-08-07"})))
    fields = parse_fields(allowing.fields([sent], None, None, "anthropic"))
    assert fields[0] == (b"anthropic-beta", f"context-1m-2025-08-07,{known}".encode())


def read_by(returning: Returning, fields: list[tuple[bytes, bytes]]) -> ResponseHead:
    """A response's fields, read twice: by a new layout, and by the one that is remembered."""
    names = FieldNames(tuple(name for name, _ in fields))
    values = [value for _, value in fields]
    first, again = returning.read(names, values), returning.read(names, values)
    assert first.lines == again.lines
    return again


def read(fields: list[tuple[bytes, bytes]]) -> ResponseHead:
    return read_by(Returning(), fields)


def test_what_describes_the_answer_passes_and_its_id_gets_a_name_of_its_own() -> None:
    head = read(
        [
            (b"Content-Type", b"text/event-stream"),
            (b"Content-Encoding", b"gzip"),
            (b"X-Request-Id", b"req_1"),
            (b"retry-after", b"9"),
            (b"OpenAI-Processing-Ms", b"\xfc"),
            (b"X-Odd", b"1"),
        ]
    )
    assert head.lines == (
        b"content-type: text/event-stream\r\n"
        b"content-encoding: gzip\r\n"
        b"x-upstream-request-id: req_1\r\n"
        b"retry-after: 9\r\n"
        b"openai-processing-ms: \xfc\r\n"
    )
    assert (head.media_type, head.content_encoding, head.request_id) == (
        "text/event-stream",
        b"gzip",
        "req_1",
    )


def test_what_the_operator_names_for_an_upstream_passes_too() -> None:
    returning = Forwarding((), Passing(answer=frozenset({"x-odd"}))).returning
    assert read_by(returning, [(b"X-Odd", b"1"), (b"x-even", b"2")]).lines == b"x-odd: 1\r\n"


def test_an_id_that_is_given_under_both_names_is_shown_once() -> None:
    head = read([(b"request-id", b"a"), (b"x-request-id", b"b")])
    assert head.lines == b"x-upstream-request-id: a\r\n"
    assert read([(b"request-id", b"a" * 1000)]).request_id == "a" * 200


@pytest.mark.parametrize(
    "name",
    [
        *(b"Set-Cookie", b"Connection", b"Keep-Alive", b"Transfer-Encoding", b"Content-Length"),
        *(b"Alt-Svc", b"Strict-Transport-Security", b"x-credits-remaining", b"X-Credits-Cost"),
        *(b"x-ratelimit-remaining-requests", b"anthropic-ratelimit-tokens-limit"),
        *(b"openai-organization", b"openai-project", b"anthropic-organization-id"),
        *(b"WWW-Authenticate", b"x-accel-redirect", b"X-Accel-Buffering", b"Clear-Site-Data"),
        *(b"x-should-retry", b"x-error-source", b"x-upstream-request-id", b"Idempotent-Replayed"),
        *(b"access-control-allow-origin", b"x-anything", b"server", b"via", b"Location"),
    ],
)
def test_what_the_upstream_may_not_say_to_the_client_ends_here(name: bytes) -> None:
    assert read([(name, b"1")]).lines == b""
