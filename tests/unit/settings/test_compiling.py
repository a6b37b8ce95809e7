"""What the flow takes from the configuration."""

import hashlib

from gateway.dialects import DIALECTS
from gateway.dialects.base import MediaTokens
from gateway.domain.reservation import shard_of
from gateway.http.interface import Breaker, UpstreamResponse
from gateway.settings.compiling import (
    compile_customers,
    compile_keys,
    compile_models,
    compile_routes,
)
from gateway.settings.forwarding import compile_trusted_header
from tests.support.fields import parse_fields
from tests.unit.settings.conftest import RIGHT, Load

HASH = hashlib.sha256(b"a key").hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()


class NamedUpstream:
    """Stands for a client of an upstream; nothing is sent in these tests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.breaker = Breaker()

    async def send(
        self, method: str, target: str, fields: bytes, body: bytes, *, owner: str = ""
    ) -> UpstreamResponse:
        raise AssertionError("nothing is sent")

    async def close(self) -> None:
        """Nothing is open."""


SIM = NamedUpstream("sim")


def test_a_model_goes_to_its_upstream_under_its_name_there(load: Load) -> None:
    start = RIGHT.replace(
        "127.0.0.1:9}",
        "127.0.0.1:9, credential: {header: X-Api-Key, value: s3}, headers: {x-org: o}, inject_usage: false}",
    ).replace("upstream: sim,", "upstream: sim, upstream_model: big/small, group: g,")
    settings = load("model_groups: {g: 3}\n", start=start)
    model = compile_models(settings, {"sim": SIM})["small"]
    assert model.upstream is SIM
    added = parse_fields(model.forwarding.fields([("X-Org", "mine"), ("accept", "o")], None))
    assert added[:3] == [(b"accept", b"o"), (b"x-org", b"o"), (b"x-api-key", b"s3")]
    assert model.forward.upstream_model == "big/small"
    assert not model.forward.inject_usage
    assert (model.max_output_tokens, model.scope_bits) == (1024, 0b100)


def test_several_upstreams_of_a_model_each_have_their_fields_name_and_weight(load: Load) -> None:
    start = RIGHT.replace(
        "127.0.0.1:9}",
        "127.0.0.1:9, credential: {value: one}}\n"
        "  two: {base_url: http://127.0.0.1:9, credential: {value: two}, failover_statuses: [429],"
        " max_output_field: max_completion_tokens}",
    ).replace(
        "upstream: sim,",
        "upstream_model: big, upstreams: [{upstream: sim, weight: 3},"
        " {upstream: two, weight: 0, upstream_model: two-big}],",
    )
    two = NamedUpstream("two")
    model = compile_models(load(start=start), {"sim": SIM, "two": two})["small"]
    assert model.spread is not None
    assert [each.weight for each in model.spread.targets] == [3, 0]
    first, second = model, model.at(1)
    assert (first.upstream, second.upstream) == (SIM, two)
    assert (first.forward.upstream_model, second.forward.upstream_model) == ("big", "two-big")
    assert second.forward.max_output_field == "max_completion_tokens"
    for each, credential in (first, b"one"), (second, b"two"):
        assert (b"authorization", credential) in parse_fields(each.forwarding.fields([], None))
    assert model.spread.targets[1].failover_statuses == {429}
    assert second.prices is model.prices


def test_a_single_entry_is_the_same_as_one_upstream(load: Load) -> None:
    start = RIGHT.replace("upstream: sim,", "upstreams: [{upstream: sim}],")
    assert compile_models(load(start=start), {"sim": SIM})["small"].spread is None


def test_the_default_routes_are_there_and_nothing_else(load: Load) -> None:
    routes = compile_routes(load(), {"sim": SIM}, DIALECTS)
    assert {path: route.free for path, route in routes.items()} == {
        "/v1/chat/completions": False,
        "/v1/completions": False,
        "/v1/embeddings": False,
        "/v1/responses": False,
        "/v1/messages": False,
        "/v1/messages/count_tokens": True,
        "/v1/models/{model}:generateContent": False,
        "/v1/models/{model}:streamGenerateContent": False,
        "/v1/models/{model}:countTokens": True,
        "/v1beta/models/{model}:generateContent": False,
        "/v1beta/models/{model}:streamGenerateContent": False,
        "/v1beta/models/{model}:countTokens": True,
    }


def test_a_route_reads_and_acts_by_its_own_policy(load: Load) -> None:
    settings = load(
        "routes: {raw: {path: /v1/raw, methods: [GET, POST], dialect: openai_chat, free: true,"
        " upstream: sim, allow_stateful_ids: true, policy: {reference_tokens: 5, drain_max_ms: 7}}}\n"
    )
    route = compile_routes(settings, {"sim": SIM}, DIALECTS)["/v1/raw"]
    assert route.methods == {"GET", "POST"}
    assert route.upstream is SIM
    assert (route.reading.reference_tokens, route.policy.drain_max_ms) == (5, 7)
    assert route.reading.allow_stateful_ids


def test_what_a_route_lets_pass_is_read_from_its_section(load: Load) -> None:
    settings = load(
        "policy: {media_tokens: {image: 100, video: 200}}\n"
        "routes:\n"
        "  chat: {path: /v1/chat/completions, dialect: openai_chat}\n"
        "  more: {path: /v1/responses, dialect: openai_responses, unknown_tools: pass, max_tool_calls: 8,"
        " extra_fields: [min_tokens], policy: {media_tokens: {image: 50, document: 300}}}\n"
    )
    routes = compile_routes(settings, {"sim": SIM}, DIALECTS)
    plain, more = (routes[path].reading for path in ("/v1/chat/completions", "/v1/responses"))
    assert (plain.unknown_tools, plain.extra_fields) == ("refuse", frozenset())
    assert plain.media_tokens == MediaTokens(image=100, video=200)
    assert plain.reference_tokens is None
    assert (plain.max_tool_calls, more.max_tool_calls) == (None, 8)
    assert (more.unknown_tools, more.extra_fields) == ("pass", frozenset({"min_tokens"}))
    assert more.media_tokens == MediaTokens(image=50, video=200, document=300)


def test_keys_are_found_by_their_hash_with_what_they_narrow_down(load: Load) -> None:
    settings = load(
        f"customers:\n  demo: {{tags: {{a: b}}, livemode: false, keys: [{{sha256: {HASH.upper()},"
        " project: web, models: [small], tags: {t: u}}]}\n"
    )
    key = compile_keys(settings)[HASH]
    assert (key.customer_id, key.project_id, key.models) == ("demo", "web", frozenset({"small"}))
    assert key.key_id == f"k_{HASH[:16]}"
    customer = compile_customers(settings)["demo"]
    assert (customer.shard, customer.livemode) == (shard_of("demo", 64), False)
    assert (customer.tags, key.tags) == ({"a": "b"}, {"t": "u"})


def test_no_key_counts_when_keys_are_off(load: Load) -> None:
    settings = load(
        f"customers: {{demo: {{keys: [{{sha256: {HASH}}}]}}}}\n"
        "auth: {keys: false, trusted_header: {customer: X-Customer, networks: [10.0.0.0/8, '::1']}}\n"
    )
    assert compile_keys(settings) == {}
    trusted = compile_trusted_header(settings)
    assert trusted is not None
    assert trusted.customer_header == "x-customer"
    assert [trusted.trusts(peer) for peer in ("10.1.2.3", "::1", "11.0.0.1", "")] == [
        True,
        True,
        False,
        False,
    ]


def test_no_header_is_believed_unless_it_is_configured(load: Load) -> None:
    assert compile_trusted_header(load()) is None
