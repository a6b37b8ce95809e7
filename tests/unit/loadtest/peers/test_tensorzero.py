"""TensorZero's configuration and requests: limits by user, the model's full name."""

import tomllib

from loadtest.peers.tensorzero import Rule, config, members


def test_a_rule_that_names_a_user_takes_precedence_over_the_rule_for_each() -> None:
    rules = [Rule(["tokens_per_month = 10"]), Rule(["tokens_per_minute = 99"], "warm")]
    document = tomllib.loads(config({"small": "http://127.0.0.1:1"}, rules))
    each, warm = document["rate_limiting"]["rules"]
    assert (each["tokens_per_month"], warm["tokens_per_minute"]) == (10, 99)
    assert warm["priority"] > each["priority"]
    assert [rule["scope"][0]["tag_value"] for rule in (each, warm)] == ["tensorzero::each", "warm"]
    assert document["models"]["small"]["providers"]["sim"]["api_base"] == "http://127.0.0.1:1/v1/"
    assert document["gateway"]["observability"]["enabled"] is False


def test_a_request_names_the_model_in_full_and_its_user() -> None:
    assert members("small", "load") == {
        "model": "tensorzero::model_name::small",
        "tensorzero::tags": {"user_id": "load"},
    }
