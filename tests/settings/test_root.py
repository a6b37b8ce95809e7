"""What is compiled from the whole configuration."""

from gateway.domain.limits import Limit
from gateway.domain.pricing import compile_prices
from tests.settings.conftest import RIGHT, Load

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
        Limit("key", "requests", "minute", 60),
    )


def test_what_a_customer_says_takes_the_place_of_its_plan(load: Load) -> None:
    settings = load(PLANS)
    assert settings.credit_limit_nano("differs") == 0
    assert settings.models_of("differs") == frozenset()
    assert settings.limits("differs") == (
        Limit("customer", "spend", "day", 7_000_000_000),
        Limit("key", "requests", "minute", 60),
        Limit("project", "concurrent", "total", 3),
    )


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
    socket = load("redis: {url: 'unix:///run/v.sock', username: u, password: pw}\n").redis
    assert socket.connection_url() == "unix:///run/v.sock?username=u&password=pw"
    assert socket.shown_url == "unix:///run/v.sock"


def test_the_store_lies_in_the_data_folder(load: Load) -> None:
    settings = load("data_dir: /var/lib/x\nstore: {sqlite: {path: y.db}}\n")
    assert str(settings.events_path) == "/var/lib/x/y.db"
    absolute = load("store: {sqlite: {path: /elsewhere/y.db}}\n")
    assert str(absolute.events_path) == "/elsewhere/y.db"
