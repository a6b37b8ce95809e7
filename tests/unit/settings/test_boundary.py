"""The HTTP boundary in the configuration: headers that pass, queries, pages, base URLs."""

import pytest

from gateway.http.interface import FieldNames
from gateway.settings.compiling import compile_cors, compile_models
from gateway.settings.forwarding import upstream_secrets
from gateway.settings.notes import notes_of
from tests.support.fields import parse_fields
from tests.unit.settings.conftest import RIGHT, Load, Problems
from tests.unit.settings.test_compiling import SIM


def with_upstream(fields: str) -> str:
    """RIGHT with more settings of its upstream."""
    return RIGHT.replace("127.0.0.1:9}", f"127.0.0.1:9, {fields}}}")


@pytest.mark.parametrize(
    ("fields", "path", "hint"),
    [
        ("forward_headers: [authorization]", "forward_headers", "headers"),
        ("forward_headers: [X-Api-Key]", "forward_headers", "headers"),
        ("forward_headers: [api-key]", "forward_headers", "headers"),
        ("forward_headers: [x-forwarded-for]", "forward_headers", "headers"),
        ("forward_headers: [content-encoding]", "forward_headers", "headers"),
        ("forward_headers: [transfer-encoding]", "forward_headers", "headers"),
        ("forward_headers: [anthropic-beta]", "forward_headers", "allowed_betas"),
        ("forward_headers: [x_team]", "forward_headers", "headers"),
        ("return_headers: [set-cookie]", "return_headers", "Remove it"),
        ("return_headers: [X-RateLimit-Limit-Requests]", "return_headers", "Remove it"),
        ("return_headers: [x-credits-cost]", "return_headers", "Remove it"),
        ("return_headers: [www-authenticate]", "return_headers", "Remove it"),
        ("return_headers: [x-request-id]", "return_headers", "Remove it"),
        ("query: {'a b': 1}", "query", "letters"),
    ],
)
def test_what_never_passes_cannot_be_configured(
    problems: Problems, fields: str, path: str, hint: str
) -> None:
    [problem] = problems(start=with_upstream(fields))
    assert path in problem.path
    assert hint in (problem.hint or "")


def test_what_is_named_passes_for_that_upstream(load: Load) -> None:
    start = with_upstream("forward_headers: [X-Team], return_headers: [x-v], allowed_betas: [b-1]")
    forwarding = compile_models(load(start=start), {"sim": SIM})["small"].forwarding
    sent = [("x-team", "t"), ("x-other", "o"), ("anthropic-beta", "b-2,b-1")]
    fields = parse_fields(forwarding.fields(sent, None, None, "anthropic"))
    assert fields[:2] == [(b"x-team", b"t"), (b"anthropic-beta", b"b-1")]
    assert forwarding.returning.read(FieldNames((b"x-v",)), [b"1"]).lines == b"x-v: 1\r\n"


def test_a_header_that_prices_a_route_reaches_its_upstream(load: Load) -> None:
    more = (
        "routes: {pages: {path: /v1/pages, dialect: generic, upstream: sim,"
        " prices: {per_item: 1}, meter: {per_item: {request_header: x-pages, at_most: 9}}}}\n"
    )
    models = compile_models(load(more), {"sim": SIM})
    fields = parse_fields(
        models["pages"].forwarding.fields([("X-Pages", "3"), ("x-b", "1")], None, None)
    )
    assert fields[:-1] == [(b"X-Pages", b"3")]


def test_every_credential_of_an_upstream_is_blanked_in_its_answers(load: Load) -> None:
    start = with_upstream(
        "credential: {value: Bearer sk-credential}, query: {key: query-secret, api-version: 2025-04-01},"
        " headers: {x-api-token: token-secret, x-organisation: our-organisation}"
    )
    assert set(upstream_secrets(load(start=start).upstreams["sim"])) == {
        b"sk-credential",
        b"query-secret",
        b"token-secret",
    }


@pytest.mark.parametrize(
    "origin",
    [
        *("https://app.example.com/", "app.example.com", "https://", "null", "https://*.a.com/x"),
        *("HTTPS://app.example.com", "https://u@a.com", "https://a.com?x", "https://a.com:0"),
    ],
)
def test_an_origin_is_written_as_browsers_send_it(problems: Problems, origin: str) -> None:
    [problem] = problems(f"cors: {{origins: ['{origin}']}}\n")
    assert problem.path == "cors.origins[0]"


def test_cors_is_off_until_an_origin_is_listed(load: Load) -> None:
    assert compile_cors(load()) is None
    assert compile_cors(load("cors: {origins: ['*', 'http://localhost:5173']}\n")) is not None


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1/chat/completions"),
        ("https://api.example.com/x/v4/", "https://api.example.com/x/v4/chat/completions"),
        (
            "https://x.openai.azure.com/openai/deployments/gpt",
            "https://x.openai.azure.com/openai/deployments/gpt/chat/completions",
        ),
    ],
)
def test_a_version_in_a_base_url_is_a_note(load: Load, url: str, target: str) -> None:
    [note] = notes_of(load(start=RIGHT.replace("http://127.0.0.1:9", url)))
    assert note == (
        "upstreams.sim.base_url names a version, which replaces the path's: "
        f"/v1/chat/completions goes to {target}."
    )


def test_a_plain_base_url_is_worth_no_note(load: Load) -> None:
    assert list(notes_of(load())) == []
    assert list(notes_of(load(start=RIGHT.replace("9}", "9/openai}")))) == []


def test_a_query_belongs_under_query(problems: Problems) -> None:
    [problem] = problems(start=RIGHT.replace("127.0.0.1:9", "127.0.0.1:9/v1?api-version=1"))
    assert "`query`" in (problem.hint or "")


def test_the_own_paths_of_the_gate_include_gemini_s_models(problems: Problems) -> None:
    for path in ("/v1beta/models", "/v1beta/models/small"):
        [problem] = problems(f"routes: {{m: {{path: {path}, dialect: openai_chat}}}}\n")
        assert "served by the gate itself" in problem.message
