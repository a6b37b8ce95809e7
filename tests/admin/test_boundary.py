"""What every request passes: Host, Origin, size, and the headers of every response."""

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.admin import boundary
from tests.support.console import Console, Serve

GRANT = {"customer_id": "acme", "amount": "1.00"}


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:80"])
async def test_a_host_that_is_not_ours_is_refused(console: Console, host: str) -> None:
    for path in ("/api/v1/wallets/acme", "/api/openapi.json", "/console/sign-in"):
        answer = await console.client.get(path, headers={"host": host})
        assert answer.status_code == 403, path


async def test_the_host_may_be_the_loopback_s_name_or_a_configured_one(serve: Serve) -> None:
    section = {"public_url": "https://Console.example", "allowed_hosts": ["gate-3:8082"]}
    async with serve(console=section) as console:
        port = console.url.rpartition(":")[2]
        for host in (f"localhost:{port}", "console.example", "GATE-3:8082"):
            answer = await console.client.get("/api/v1/wallets/acme", headers={"host": host})
            assert answer.status_code == 200, host


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://127.0.0.1"])
async def test_a_write_from_another_origin_is_refused(console: Console, origin: str) -> None:
    answer = await console.client.post("/api/v1/grants", json=GRANT, headers={"origin": origin})
    assert (answer.status_code, code(answer)) == (403, "origin_refused")


async def test_a_write_with_a_cookie_needs_an_origin(console: Console) -> None:
    answer = await console.client.post("/api/v1/grants", json=GRANT, headers={"cookie": "a=b"})
    assert code(answer) == "origin_refused"
    own = {"cookie": "a=b", "origin": console.url}
    answer = await console.client.post("/api/v1/grants", json=GRANT, headers=own)
    assert answer.status_code == 201


@pytest.mark.parametrize("path", ["/api/v1/wallets/acme", "/console/sign-in", "/nothing"])
async def test_every_response_has_the_headers_that_protect_browsers(
    console: Console, path: str
) -> None:
    headers = (await console.client.get(path)).headers
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["x-request-id"].startswith("req_")
    assert "server" not in headers
    assert "strict-transport-security" not in headers


async def test_a_request_id_of_the_client_is_kept_if_it_is_one(console: Console) -> None:
    for given, kept in (("trace-0123456789", True), ("x" * 65, False), ("a b", False)):
        answer = await console.client.get("/nothing", headers={"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) is kept
        assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


async def test_a_body_beyond_the_bound_is_refused_stated_or_not(console: Console) -> None:
    large = b" " * (boundary.BODY_BYTES_MOST + 1)

    async def pieces() -> AsyncIterator[bytes]:
        yield large

    headers = {"content-type": "application/json"}
    for content in (large, pieces()):
        answer = await console.client.post("/api/v1/grants", content=content, headers=headers)
        assert (answer.status_code, code(answer)) == (413, "body_too_large")


async def test_an_unknown_path_and_a_wrong_method_are_said_in_the_one_shape(
    console: Console,
) -> None:
    answer = await console.client.get("/api/v1/nothing")
    assert (answer.status_code, code(answer)) == (404, "route_unknown")
    answer = await console.client.delete("/api/v1/wallets/acme")
    assert (answer.status_code, code(answer)) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"
    answer = await console.client.put("/api/v1/customers/acme")
    assert answer.headers["allow"] == "DELETE, GET, PATCH"


async def test_a_fault_shows_its_request_id_and_nothing_else(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a detail of the inside")

    monkeypatch.setattr("gateway.admin.api.wallets.show_wallet", broken)
    answer = await console.client.get("/api/v1/wallets/acme")
    assert (answer.status_code, code(answer)) == (500, "internal_error")
    assert "inside" not in answer.text
