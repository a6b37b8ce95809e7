"""What is compiled from the complete configuration."""

import pytest

from gateway.domain.limits import Limit
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Key
from gateway.flow.customers import account_of
from gateway.settings.compiling import compile_customers, compile_keys
from tests.support.stores import events_path
from tests.unit.settings.conftest import RIGHT, Load

PLANS = """\
model_groups: {premium: 2, basic: 5}
plans:
  starter:
    credit_limit: "1.50"
    models: [small]
    grants: [{name: welcome, amount: "10.00", groups: [premium, basic]}]
    limits:
      - {measure: spend, window: day, ceiling: "5.00"}
      - {scope: key, measure: requests, window: minute, ceiling: 60}
customers:
  same: {plan: starter}
  differs:
    plan: starter
    credit_limit: "0"
    models: []
    grants: [{name: pilot, amount: "1", expires_at: 2027-01-01T00:00:00Z, category: paid}]
    limits:
      - {measure: spend, window: day, ceiling: "7.00"}
      - {scope: project, measure: concurrent, ceiling: 3}
  bare:
"""


def test_a_customer_has_what_its_plan_says(load: Load) -> None:
    settings = load(PLANS)
    assert settings.credit_limit_nano("same") == 1_500_000_000
    assert settings.models_of("same") == frozenset({"small"})
    assert settings.limits("same") == (
        Limit("customer", "spend", "day", 5_000_000_000),
        Limit("key", "requests", "minute", 60, rolling=True),
    )


def test_what_a_customer_says_takes_the_place_of_its_plan(load: Load) -> None:
    settings = load(PLANS)
    assert settings.credit_limit_nano("differs") == 0
    assert settings.models_of("differs") == frozenset()
    assert settings.limits("differs") == (
        Limit("customer", "spend", "day", 7_000_000_000),
        Limit("key", "requests", "minute", 60, rolling=True),
        Limit("project", "concurrent", "total", 3),
    )


@pytest.mark.parametrize(
    ("said", "rolls"),
    [
        ("measure: requests, window: minute", True),
        ("measure: tokens, window: minute", True),
        ("measure: spend, window: minute", False),
        ("measure: requests, window: hour", False),
        ("measure: tokens, window: minute, rolling: false", False),
        ("measure: spend, window: month, rolling: true", True),
        ("measure: concurrent", False),
        ("measure: concurrent, rolling: false", False),
    ],
)
def test_requests_and_tokens_in_a_minute_roll_unless_told_otherwise(
    load: Load, said: str, rolls: bool
) -> None:
    settings = load(f"customers: {{acme: {{limits: [{{{said}, ceiling: 5}}]}}}}")
    (limit,) = settings.limits("acme")
    assert limit.rolling is rolls


MODELS = """\
plans:
  team:
    limits:
      - {scope: model, models: [small, large], measure: requests, window: day, ceiling: 9}
      - {scope: project, measure: spend, window: month, ceiling: "50"}
      - {scope: key, measure: requests, window: minute, ceiling: 60}
customers:
  acme:
    plan: team
    limits:
      - {scope: model, model: large, measure: requests, window: day, ceiling: 2}
    projects:
      web: {limits: [{measure: spend, window: month, ceiling: "80"}]}
      bare:
    keys:
      - sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b
        id: k1
        project: web
        limits:
          - {measure: requests, window: minute, ceiling: 5}
          - {measure: concurrent, ceiling: 1}
"""


def test_each_model_of_a_limit_is_one_and_one_model_s_takes_the_place_of_its_own(
    load: Load,
) -> None:
    large = "  large: {upstream: sim, max_output_tokens: 9, prices: {input: 1, output: 2}}\n"
    settings = load(MODELS, start=RIGHT + large)
    assert settings.limits("acme")[:2] == (
        Limit("model", "requests", "day", 9, model="small"),
        Limit("model", "requests", "day", 2, model="large"),
    )


def test_a_project_s_and_a_key_s_limits_take_the_place_of_those_for_all(load: Load) -> None:
    large = "  large: {upstream: sim, max_output_tokens: 9, prices: {input: 1, output: 2}}\n"
    settings = load(MODELS, start=RIGHT + large)
    customer = compile_customers(settings)["acme"]
    (key,) = compile_keys(settings).values()
    project = Limit("project", "spend", "month", 80 * 10**9)
    requests = Limit("key", "requests", "minute", 5, rolling=True)
    running = Limit("key", "concurrent", "total", 1)
    assert account_of(customer, key, 1).limits[2:] == (project, requests, running)
    other = account_of(customer, Key("k2", "acme", "other"), 1)
    assert other.limits == settings.limits("acme")
    assert customer.projects == {"web": (project,), "bare": ()}


def test_an_empty_customer_has_nothing(load: Load) -> None:
    settings = load(PLANS)
    assert settings.credit_limit_nano("bare") == 0
    assert settings.models_of("bare") is None
    assert settings.limits("bare") == ()
    assert settings.starting_grants("bare") == ()


def test_a_starting_grant_is_named_by_customer_and_grant(load: Load) -> None:
    settings = load(PLANS)
    ((operation_id, grant),) = settings.starting_grants("same")
    assert operation_id == "start:same:welcome"
    assert (grant.amount_nano, grant.category, grant.priority) == (
        10_000_000_000,
        "promotional",
        100,
    )
    assert settings.scope_bits(grant.groups) == 0b10010
    (_, (second_id, second)) = settings.starting_grants("differs")
    assert (second_id, second.expires_at_ms) == ("start:differs:pilot", 1_798_761_600_000)


def test_prices_compile_to_pico_credits_by_unit(load: Load) -> None:
    prices = 'prices: {input: "3.00", output: "15", cache_read: "0.30", per_request: "0.001"}, costs: {input: "1"}'
    table = (
        load(start=RIGHT.replace('prices: {input: "0.50", output: "2.00"}', prices))
        .models["small"]
        .price_table("small")
    )
    expected = {"input": 3_000_000, "output": 15_000_000, "cache_read": 300_000, "request": 10**9}
    assert table.price_version == compile_prices(expected, {"input": 1_000_000}).price_version


def test_a_price_per_request_alone_makes_tokens_free(load: Load) -> None:
    start = RIGHT.replace(
        'prices: {input: "0.50", output: "2.00"}', 'prices: {per_request: "0.001"}'
    )
    assert load(start=start).models["small"].price_table("small").units == ("request",)


def test_redis_is_embedded_or_a_url_in_short_or_in_full(load: Load) -> None:
    assert load().redis.embedded
    assert load("redis: embedded\n").redis.connection_url() is None
    assert load("redis: {shards: 8}\n").redis.shards == 8
    short, full = load("redis: redis://h:1/2\n"), load("redis: {url: redis://h:1/2}\n")
    assert short.redis == full.redis
    assert short.redis.connection_url() == "redis://h:1/2"
    assert not short.redis.embedded


def test_redis_credentials_and_tls_join_the_url_and_stay_out_of_sight(load: Load) -> None:
    redis = load(
        "redis: {url: rediss://h:1, username: gate, password: 'p@ss/word', tls: {verify: false}}\n"
    ).redis
    assert redis.connection_url() == (
        "rediss://gate:p%40ss%2Fword@h:1?ssl_cert_reqs=none&ssl_check_hostname=no"
    )
    assert redis.shown_url == "rediss://gate@h:1/0"
    assert load("redis: 'redis://u:pw@h:1/0'\n").redis.shown_url == "redis://u@h:1/0"
    watched = load(
        "redis: {url: 'redis+sentinel://a:1,b/svc/2', password: pw,"
        " sentinel: {username: eve, password: 't&wo'}}\n"
    ).redis
    assert watched.connection_url() == (
        "redis+sentinel://:pw@a:1,b/svc/2?sentinel_username=eve&sentinel_password=t%26wo"
    )
    assert watched.shown_url == "redis+sentinel://a:1,b:26379/svc/2"
    socket = load("redis: {url: 'unix:///run/v.sock', username: u, password: pw}\n").redis
    assert socket.connection_url() == "unix:///run/v.sock?username=u&password=pw"
    inline = load("redis: 'unix://u:p%40w@/run/v.sock'\n").redis
    assert inline.connection_url() == "unix:///run/v.sock?username=u&password=p%40w"
    assert inline.shown_url == "unix:///run/v.sock"
    assert socket.shown_url == "unix:///run/v.sock"


def test_the_store_lies_in_the_data_folder(load: Load) -> None:
    settings = load("data_dir: /var/lib/x\n")
    assert str(events_path(settings)) == "/var/lib/x/events.db"
    own = "export: {required: own, sinks: {own: {sqlite: {path: %s}}}}\n"
    assert str(events_path(load("data_dir: /x\n" + own % "y.db"))) == "/x/y.db"
    assert str(events_path(load(own % "/elsewhere/y.db"))) == "/elsewhere/y.db"
