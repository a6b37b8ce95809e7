"""What passes the gate in either direction, and what ends here."""

import pytest

from gateway.proxy.headers import Forwarding, Passing, read_head

CREDENTIAL = ((b"Authorization", b"Bearer upstream"), (b"x-org", b"o"))


def forwarded(
    *sent: tuple[str, str], connection: str | None = None, internal: tuple[str, ...] = ()
) -> list[tuple[bytes, bytes]]:
    """The caller's fields that pass: without what the gate adds itself."""
    passing = Passing(internal=frozenset(internal))
    fields = list(Forwarding((), passing).fields(sent, connection, "r1", api="anthropic"))
    assert fields[-3:] == [
        (b"content-type", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"x-request-id", b"r1"),
    ]
    return fields[:-3]


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


def test_what_is_the_caller_s_passes_as_sent() -> None:
    sent = [("X-Stainless-Lang", "python"), ("anthropic-version", "2023-06-01"), ("x-u", "ü")]
    assert forwarded(*sent) == [(n.encode(), v.encode()) for n, v in sent]


def test_the_credential_takes_the_place_of_whatever_the_caller_sent() -> None:
    fields = Forwarding(CREDENTIAL).fields([("X-ORG", "theirs"), ("x-other", "1")], None, "r1")
    assert fields[:3] == [(b"x-other", b"1"), *CREDENTIAL]


def test_what_a_trusted_gateway_says_of_its_customers_is_not_told_upstream() -> None:
    sent = [("X-Customer", "acme"), ("x-customer-plan", "gold")]
    assert forwarded(*sent, internal=("x-customer",)) == [(b"x-customer-plan", b"gold")]


@pytest.mark.parametrize("connection", ["x-hop", "keep-alive, X-Hop", "close,x-hop"])
def test_fields_that_connection_names_are_hop_by_hop(connection: str) -> None:
    assert forwarded(("X-Hop", "1"), ("x-end", "2"), connection=connection) == [(b"x-end", b"2")]
    assert len(forwarded(("X-Hop", "1"), connection="keep-alive")) == 1


def test_the_answer_s_fields_pass_and_its_id_gets_a_name_of_its_own() -> None:
    head = read_head(
        [
            (b"Content-Type", b"text/event-stream"),
            (b"Content-Encoding", b"gzip"),
            (b"X-Request-Id", b"req_1"),
            (b"x-ratelimit-remaining-requests", b"9"),
            (b"X-Odd", b"\xfc"),
        ]
    )
    assert head.fields == [
        ("content-type", "text/event-stream"),
        ("content-encoding", "gzip"),
        ("x-upstream-request-id", "req_1"),
        ("x-ratelimit-remaining-requests", "9"),
        ("x-odd", "\xfc"),
    ]
    assert (head.media_type, head.coding, head.request_id) == (
        b"text/event-stream",
        b"gzip",
        "req_1",
    )


def test_an_id_that_is_given_under_both_names_is_shown_once() -> None:
    head = read_head([(b"request-id", b"a"), (b"x-request-id", b"b")])
    assert head.fields == [("x-upstream-request-id", "a")]
    assert read_head([(b"request-id", b"a" * 1000)]).request_id == "a" * 200


@pytest.mark.parametrize(
    "name",
    [
        *(b"Set-Cookie", b"Connection", b"Keep-Alive", b"Transfer-Encoding", b"Content-Length"),
        *(b"Alt-Svc", b"Strict-Transport-Security", b"x-credits-remaining", b"X-Credits-Cost"),
    ],
)
def test_what_the_upstream_may_not_say_to_the_client_ends_here(name: bytes) -> None:
    assert read_head([(name, b"1")]).fields == []
