"""config/rest.yaml, served end to end before a plain REST API: what the sample's comments say."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.domain.events import Event
from tests.support.gate import Gate, running_gate
from tests.support.rest_api import RestApi, rest_api
from tests.support.until import until

CONFIG = Path(__file__).parents[3] / "config" / "rest.yaml"


@pytest.fixture
async def api() -> AsyncIterator[RestApi]:
    async with rest_api() as serving:
        yield serving


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, api: RestApi) -> AsyncIterator[Gate]:
    document = yaml.safe_load(CONFIG.read_text())
    document["upstreams"]["maps"]["base_url"] = api.url
    document["upstreams"]["maps"]["credential"]["value"] = "the-gates-own"
    sections = {name: document[name] for name in ("upstreams", "routes", "customers")}
    async with running_gate(tmp_path, valkey_socket, api.url, models={}, **sections) as running:
        yield running


async def ask(
    gate: Gate, method: str, path: str, *, key: str = "sk-demo", **more: Any
) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
    return await gate.client.request(method, path, headers=headers, **more)


async def last(gate: Gate, who: str = "acme") -> Event:
    """The newest event; nothing is held, and the wallet was charged what its events say."""
    await gate.settle_all()
    events = await gate.events(who)
    assert await gate.held_nano(who) == 0
    assert await gate.settled_nano(who) == sum(event.amount_nano for event in events)
    return events[-1]


async def test_the_first_two_requests_of_a_month_are_included(gate: Gate, api: RestApi) -> None:
    charges = []
    for _ in range(3):
        answer = await ask(gate, "GET", "/v1/geocode?address=Bern&language=de")
        assert answer.status_code == 200
        charges.append(answer.headers["x-credits-cost"])
    assert charges == ["0", "0", "0.001"]
    event = await last(gate)
    assert (event.usage, event.facts["usage_source"]) == ({"request": 1}, "counted")
    assert (event.facts["model"], event.facts["route"]) == ("geocode", "/v1/geocode")
    heard = api.heard[-1]
    assert (heard.target, heard.body) == ("/v1/geocode?address=Bern&language=de", b"")
    assert heard.headers["x-maps-key"] == "the-gates-own"
    assert "authorization" not in heard.headers
    assert "content-type" not in heard.headers


async def test_each_address_of_a_batch_counts(gate: Gate, api: RestApi) -> None:
    answer = await ask(gate, "POST", "/v1/geocode/batch", json={"addresses": ["a", "b", "c"]})
    assert answer.headers["x-credits-reserved"] == answer.headers["x-credits-cost"] == "0.0015"
    event = await last(gate)
    assert (event.usage, event.facts["usage_source"]) == ({"item": 3}, "counted")


async def test_a_partner_has_a_price_of_its_own_and_no_other_route(
    gate: Gate, api: RestApi
) -> None:
    batch = {"addresses": ["a", "b", "c"]}
    answer = await ask(gate, "POST", "/v1/geocode/batch", key="sk-pocket", json=batch)
    assert answer.headers["x-credits-cost"] == "0.0003"
    assert (await ask(gate, "GET", "/v1/maps/7", key="sk-pocket")).status_code == 403
    assert len(api.heard) == 1


async def test_the_request_bounds_what_the_answer_tells(gate: Gate, api: RestApi) -> None:
    answer = await ask(gate, "POST", "/v1/maps/m-1/render", json={"tiles": 10})
    assert answer.content == b"\x89PNG" * 10
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-credits-reserved"] == "0.03"
    event = await last(gate)
    assert event.amount_nano == 10_000_000 + 3 * 2_000_000
    assert event.usage == {"request": 1, "item": 3}
    assert event.facts["usage_source"] == "provider_reported"
    assert event.facts["route"] == "/v1/maps/{id}/render"
    assert api.heard[-1].target == "/v1/maps/m-1/render"


async def test_a_request_that_says_nothing_is_held_at_its_default(gate: Gate, api: RestApi) -> None:
    said: list[dict[str, Any]] = [{"json": {}}, {}]
    for options in said:
        answer = await ask(gate, "POST", "/v1/maps/m-1/render", **options)
        assert answer.headers["x-credits-reserved"] == "0.018"
    await last(gate)


async def test_what_the_answer_should_tell_and_does_not_is_charged_at_its_bound(
    gate: Gate, api: RestApi, subtests: pytest.Subtests
) -> None:
    for drawn, flag, tiles in (
        (None, "usage_missing", 10),
        ("many", "usage_absurd", 10),
        ("-1", "usage_absurd", 10),
        ("1001", "usage_absurd", 10),
        ("1000", None, 1000),
        ("2.5", None, 3),
    ):
        with subtests.test(f"{drawn=}"):
            api.drawn = drawn
            await ask(gate, "POST", "/v1/maps/m-1/render", json={"tiles": 10})
            event = await last(gate)
            assert event.usage["item"] == tiles
            assert event.facts["flags"] == ([flag] if flag else [])
            assert event.facts["usage_source"] == ("estimated" if flag else "provider_reported")


async def test_one_path_has_a_price_for_each_method(gate: Gate, api: RestApi) -> None:
    read = await ask(gate, "GET", "/v1/maps/m.1")
    written = await ask(
        gate, "PUT", "/v1/maps/m.1", content=b"<map/>", headers={"content-type": "text/xml"}
    )
    forgotten = await ask(gate, "DELETE", "/v1/maps/m.1")
    assert (read.headers["x-credits-cost"], written.headers["x-credits-cost"]) == (
        "0.0001",
        "0.001",
    )
    assert forgotten.status_code == 204
    assert "x-credits-cost" not in forgotten.headers
    assert [(h.method, h.target) for h in api.heard] == [
        (method, "/v1/maps/m.1") for method in ("GET", "PUT", "DELETE")
    ]
    assert (api.heard[1].body, api.heard[1].headers["content-type"]) == (b"<map/>", "text/xml")
    refused = await ask(gate, "POST", "/v1/maps/m.1")
    assert refused.status_code == 405
    assert "DELETE, GET, PATCH, PUT" in refused.text


async def test_an_answer_that_is_no_success_is_not_charged(gate: Gate, api: RestApi) -> None:
    for status in (301, 404, 500):
        api.status = status
        answer = await ask(gate, "GET", "/v1/maps/7")
        assert answer.status_code == status
        event = await last(gate)
        assert (event.kind, event.amount_nano) == ("release", 0)


async def test_an_export_is_charged_by_its_bytes(gate: Gate, api: RestApi) -> None:
    answer = await ask(gate, "GET", "/v1/maps/7/export")
    assert len(answer.content) == 5000
    assert answer.headers["x-credits-reserved"] == "1"
    event = await last(gate)
    assert (event.usage, event.amount_nano) == ({"byte": 5000}, 5_000_000)


async def test_an_export_that_breaks_off_is_cut_for_the_client_and_charged_as_far_as_it_came(
    gate: Gate, api: RestApi
) -> None:
    api.cut = True
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(gate, "GET", "/v1/maps/7/export")
    event = await last(gate)
    assert (event.kind, event.usage) == ("settle", {"byte": 1000})
    assert "upstream_cut" in event.facts["flags"]


async def test_seconds_are_rounded_up(gate: Gate, api: RestApi) -> None:
    api.take_s = 1.05
    answer = await ask(gate, "POST", "/v1/directions", content=b"from a to b")
    assert answer.headers["x-credits-reserved"] == "0.6"
    assert answer.headers["x-credits-cost"] == "0.04"


async def test_a_client_that_leaves_still_pays_for_what_was_done(gate: Gate, api: RestApi) -> None:
    api.take_s = 1.05
    with pytest.raises(httpx.ReadTimeout):
        await ask(gate, "POST", "/v1/directions", content=b"from a to b", timeout=0.2)
    await until(lambda: not gate.live)
    event = await last(gate)
    assert (event.kind, event.usage) == ("settle", {"second": 2})


async def test_who_cannot_pay_is_refused_before_the_api_hears_of_it(
    gate: Gate, api: RestApi
) -> None:
    answer = await ask(gate, "GET", "/v1/maps/7", key="sk-broke")
    assert answer.status_code == 402
    assert api.heard == []


BATCH, RENDER = "POST /v1/geocode/batch", "POST /v1/maps/7/render"
FORM = {"content": b"a=1", "headers": {"content-type": "application/x-www-form-urlencoded"}}
NOT_TILES: list[Any] = [-1, "3", True, [], None, 65, 1e300]
BAD: list[tuple[str, dict[str, Any], int, str | None]] = [
    # request, body, status, the parameter that is named
    (BATCH, {"json": {}}, 400, "/addresses"),
    (BATCH, {}, 400, None),
    (BATCH, {"json": {"addresses": 3}}, 400, "/addresses"),
    (BATCH, {"json": {"addresses": ["a"] * 1001}}, 400, "/addresses"),
    (BATCH, {"content": b'{"addresses":["a"],"addresses":["a","b"]}'}, 400, "addresses"),
    (BATCH, {"json": {"addresses": ["a"], "Addresses": ["a", "b"]}}, 400, "/addresses"),
    (RENDER, {"json": {"Tiles": 60}}, 400, "/tiles"),
    *((RENDER, {"json": {"tiles": value}}, 400, "/tiles") for value in NOT_TILES),
    (BATCH, FORM, 415, None),
    ("GET /v1/geocode?address=a&tiles=9", {}, 400, "tiles"),
    ("GET /v1/geocode?addres%73=a", {}, 400, None),
    ("GET /v1/geocode?address=a;tiles=9", {}, 400, None),
    ("GET /v1/geocode?address=a&key=sk-demo", {}, 400, "key"),
    ("GET /v1/maps/7?x=1", {}, 400, "x"),  # a query where none is known
    ("GET /v1/maps/a%20b", {}, 404, None),
    ("GET /v1/maps/a%2fb", {}, 400, None),
    ("GET /v1/maps//render", {}, 404, None),
    ("GET /v1/maps/../render", {}, 404, None),
    ("GET /v1/maps/7/8", {}, 404, None),
    ("GET /v1/maps/7/", {}, 404, None),
    ("GET /v1/maps/7:x", {}, 404, None),
]


async def test_what_cannot_be_priced_is_refused_and_nothing_moves(
    gate: Gate, api: RestApi, subtests: pytest.Subtests
) -> None:
    for request, options, status, param in BAD:
        with subtests.test(f"{request} {str(options)[:60]}"):
            answer = await ask(gate, *request.split(), **options)
            assert answer.status_code == status, answer.text
            error = answer.json()["error"]
            assert error["message"]
            assert error["param"] == param
            assert "sk-demo" not in answer.text
            await gate.settle_all()
            assert api.heard == []
            assert await gate.events() == []
            assert (await gate.held_nano(), await gate.settled_nano()) == (0, 0)


async def test_a_route_s_price_is_no_model_that_a_request_could_name(
    gate: Gate, api: RestApi
) -> None:
    listed = (await ask(gate, "GET", "/v1/models")).json()["data"]
    assert listed == []


async def test_47_a_named_request_is_another_on_another_path_or_with_another_quantity(
    gate: Gate, api: RestApi
) -> None:
    named = {"idempotency-key": "k-1"}
    first = await ask(gate, "PUT", "/v1/maps/1", content=b"<map/>", headers=named)
    again = await ask(gate, "PUT", "/v1/maps/1", content=b"<map/>", headers=named)
    other = await ask(gate, "PUT", "/v1/maps/2", content=b"<map/>", headers=named)
    assert (first.status_code, other.status_code) == (200, 422)
    assert again.status_code not in (402, 422)
    assert [heard.target for heard in api.heard] == ["/v1/maps/1"]
    event = await last(gate)
    assert event.amount_nano == await gate.settled_nano() == 1_000_000
