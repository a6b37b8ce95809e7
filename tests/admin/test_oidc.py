"""Sign-in at an OpenID Connect provider, against a real one on a socket."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from oidc_provider_mock import User, run_server_in_thread

from gateway.admin.auth.oidc import person
from gateway.settings.console import OidcSection
from tests.support.console import Console, Serve

CALLBACK = "/console/oidc/callback"
USERS = (
    User(
        sub="ada",
        claims={"email": "ada@example.com", "email_verified": True, "groups": ["finance", "all"]},
    ),
    User(sub="eve", claims={"groups": ["all"]}),
    User(sub="bob", claims={"groups": "platform"}),
)


@pytest.fixture
def provider() -> Iterator[str]:
    """The provider's issuer URL."""
    with run_server_in_thread(user_claims=USERS) as server:
        yield f"http://localhost:{server.server_port}"


def section(issuer: str, **changes: Any) -> dict[str, Any]:
    """The console's section."""
    oidc = {
        "issuer": issuer,
        "client_id": "creditgate",
        "client_secret": "a-client-secret",
        "roles": {"finance": "billing", "platform": "admin"},
    }
    return {"oidc": oidc | changes}


async def authorized(console: Console, subject: str) -> str:
    """Start, sign in at the provider, and return the URL that it sends the browser to."""
    begun = await console.bare.get("/console/oidc/start")
    assert begun.status_code == 302
    async with httpx.AsyncClient(timeout=30) as browser:
        answer = await browser.post(begun.headers["location"], data={"sub": subject})
    return answer.headers["location"]


async def test_a_person_signs_in_with_the_role_of_a_group(serve: Serve, provider: str) -> None:
    async with serve(console=section(provider)) as console:
        assert "Sign in with" in (await console.bare.get("/console/sign-in")).text
        back = await authorized(console, "ada")
        assert back.startswith(console.url + CALLBACK)
        answer = await console.bare.get(back)
        assert answer.status_code == 200
        cookies = answer.headers.get_list("set-cookie")
        assert any("SameSite=strict" in each for each in cookies)
        assert (await console.bare.get("/api/v1/customers")).status_code == 200
        assert (await console.bare.get("/api/v1/audit")).status_code == 200
        assert (await console.bare.get("/api/v1/tokens")).status_code == 403
        page = (await console.bare.get("/console/")).text
        assert "ada@example.com" in page


async def test_who_has_no_role_does_not_come_in(serve: Serve, provider: str) -> None:
    async with serve(console=section(provider)) as console:
        answer = await console.bare.get(await authorized(console, "eve"))
        assert answer.status_code == 401
        assert "no role" in answer.text
        assert "creditgate_session" not in str(answer.headers)


async def test_an_answer_counts_once_and_in_the_browser_that_began(
    serve: Serve, provider: str
) -> None:
    async with serve(console=section(provider)) as console:
        back = await authorized(console, "ada")
        async with httpx.AsyncClient() as other:
            assert (await other.get(back)).status_code == 401
        forged = re.sub("state=[^&]+", "state=another", back)
        assert (await console.bare.get(forged)).status_code == 401
        back = await authorized(console, "ada")
        assert (await console.bare.get(back)).status_code == 200
        assert (await console.bare.get(back)).status_code == 401
        refused = await console.bare.get(f"{CALLBACK}?error=access_denied&state=x")
        assert refused.status_code == 401


async def test_the_request_carries_pkce_state_and_nonce(serve: Serve, provider: str) -> None:
    async with serve(console=section(provider)) as console:
        begun = await console.bare.get("/console/oidc/start")
        asked = parse_qs(urlsplit(begun.headers["location"]).query)
        assert asked["code_challenge_method"] == ["S256"]
        assert asked["redirect_uri"] == [console.url + CALLBACK]
        assert {"state", "nonce", "code_challenge"} <= asked.keys()
        cookie = begun.headers["set-cookie"]
        assert {"HttpOnly", "Path=/console/oidc", "SameSite=lax"} <= set(cookie.split("; "))


async def test_a_provider_that_is_away_or_another_is_said(serve: Serve, provider: str) -> None:
    async with serve(console=section("http://127.0.0.1:9")) as console:
        answer = await console.bare.get("/console/oidc/start")
        assert answer.status_code == 503
        assert "provider" in answer.text
    await asyncio.sleep(0)
    other = provider.replace("localhost", "127.0.0.1")
    async with serve(console=section(other)) as console:
        assert (await console.bare.get("/console/oidc/start")).status_code in (302, 503)


async def test_without_a_provider_there_is_no_such_page(console: Console) -> None:
    for path in ("/console/oidc/start", CALLBACK):
        assert (await console.bare.get(path)).status_code == 404


@pytest.mark.parametrize(
    ("claims", "who"),
    [
        ({"groups": ["finance", "platform"]}, ("user:x", "admin")),
        ({"groups": "finance"}, ("user:x", "billing")),
        ({"groups": ["other", 7, None]}, None),
        ({}, None),
        ({"groups": 7}, None),
        ({"groups": {"finance": True}}, None),
        ({"groups": ["finance"], "email": "a@b.example"}, ("user:x", "billing")),
        (
            {"groups": ["finance"], "email": "a@b.example", "email_verified": True},
            ("user:a@b.example", "billing"),
        ),
    ],
)
def test_the_role_is_that_with_most_rights_and_only_a_verified_address_is_a_name(
    claims: dict[str, Any], who: tuple[str, str] | None
) -> None:
    oidc = OidcSection.model_validate(section("https://login.example.com")["oidc"])
    found = person(oidc, {"sub": "x"} | claims)
    assert (None if found is None else (str(found.actor), found.role)) == who
