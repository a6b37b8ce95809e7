"""Names that share state at the provider are the customer's own there."""

from typing import Any

import orjson
import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import BadRequest, ForwardOptions, ReadOptions
from tests.unit.dialects.test_probes import LEAST

SCOPE = "0123456789abcdef"
OTHER = "fedcba9876543210"


def forwarded(name: str, fields: dict[str, Any], scope: str | None = SCOPE) -> dict[str, Any]:
    dialect = DIALECTS[name]
    facts = dialect.read_request(orjson.dumps({**LEAST[name], **fields}), ReadOptions())
    options = ForwardOptions("m", customer_scope=scope)
    document: dict[str, Any] = orjson.loads(dialect.forward_body(facts, options))
    return document


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *(
            (name, field)
            for name in ("openai_chat", "openai_completions", "openai_responses")
            for field in ("user", "safety_identifier", "prompt_cache_key", "cache_salt")
        ),
        ("openai_embeddings", "user"),
        ("openai_images", "user"),
        ("openai_images", "safety_identifier"),
    ],
)
def test_each_name_carries_the_customer_s_scope(name: str, field: str) -> None:
    assert forwarded(name, {field: "u-1"})[field] == f"{SCOPE}-u-1"
    assert forwarded(name, {field: "u-1"}, OTHER)[field] == f"{OTHER}-u-1"
    assert forwarded(name, {field: "u-1"}, None)[field] == "u-1"
    assert forwarded(name, {field: None})[field] is None
    long = forwarded(name, {field: "u" * 60})[field]
    assert len(long) == 64
    assert long.startswith(f"{SCOPE}-")
    assert long != forwarded(name, {field: "u" * 61})[field]
    assert long == forwarded(name, {field: "u" * 60})[field]
    for wrong in (5, True, ["u"], {"u": 1}):
        with pytest.raises(BadRequest) as refused:
            forwarded(name, {field: wrong})
        assert refused.value.param == field


def test_anthropic_s_user_id_carries_it_too() -> None:
    name = "anthropic_messages"
    document = forwarded(name, {"metadata": {"user_id": "u-1"}})
    assert document["metadata"] == {"user_id": f"{SCOPE}-u-1"}
    long = forwarded(name, {"metadata": {"user_id": "u" * 250}})["metadata"]["user_id"]
    assert len(long) <= 256
    assert long.startswith(f"{SCOPE}-")
    for harmless in (None, {}, {"user_id": None}):
        assert forwarded(name, {"metadata": harmless})["metadata"] == harmless
    for wrong in ("u", 5, ["u"], {"user_id": 5}, {"User_Id": "u"}):
        with pytest.raises(BadRequest):
            forwarded(name, {"metadata": wrong})


def test_openai_s_metadata_is_not_a_name() -> None:
    assert forwarded("openai_chat", {"metadata": {"user_id": "u"}})["metadata"] == {"user_id": "u"}
