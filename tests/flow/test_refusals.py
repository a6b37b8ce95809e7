"""What a refusal says: status, reason, whose limit, when to try again."""

import orjson
import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import BadRequest
from gateway.domain.limits import Limit
from gateway.domain.reservation import Denied, DenyReason
from gateway.flow.denials import refused_by_ledger, refused_growth
from gateway.flow.refusals import (
    TRANSIENT,
    Refused,
    as_refused,
    refusal_headers,
    refused_by_kill,
    refused_by_upstream,
)
from gateway.http.interface import BodyError, UpstreamError
from gateway.ledger.client.errors import LedgerUnavailable

CREDIT = 1_000_000_000


def said(refused: Refused) -> tuple[int, dict[str, str]]:
    """Status and headers as an OpenAI client gets them."""
    refusal = refused.as_refusal("r1")
    status, _ = DIALECTS["openai_chat"].refusal(refusal)
    return status, dict(refusal_headers(refusal))


def denied(reason: DenyReason, limit: Limit | None = None, retry_ms: int | None = None) -> Refused:
    answer = Denied(reason, 3 * CREDIT, CREDIT // 2, CREDIT, limit, 7, retry_ms, limit_of="it")
    return refused_by_ledger(answer, insufficient_status=402)


def test_no_credit_is_final_and_says_what_was_missing() -> None:
    refused = denied("insufficient_credits")
    status, headers = said(refused)
    assert (status, headers["x-should-retry"]) == (402, "false")
    assert "retry-after" not in headers
    assert refused.detail == {
        "reason": "insufficient_credits",
        "limit_source": "balance",
        "available": "0.5",
        "estimate": "3",
    }


def test_credit_that_is_held_will_come_back() -> None:
    status, headers = said(denied("credit_held"))
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    assert "x-should-retry" not in headers


@pytest.mark.parametrize(
    ("limit", "source"),
    [
        (Limit("customer", "requests", "minute", 5), "customer it (requests per minute)"),
        (Limit("key", "tokens", "day", 5), "key it (tokens per day)"),
        (Limit("project", "requests", "total", 5), "project it (requests in total)"),
        (Limit("model", "requests", "day", 5, model="it"), "model it (requests per day)"),
    ],
)
def test_a_rate_limit_says_whose_it_is_and_when_its_window_ends(limit: Limit, source: str) -> None:
    refused = denied("rate_limit", limit, 1500)
    status, headers = said(refused)
    assert (status, headers["retry-after"]) == (429, "2")
    assert refused.detail["limit_source"] == source
    assert source in refused.message
    assert refused.message.endswith("7 of 5 left. Try again in 2 s.")
    assert refused.detail["limit"] == {
        "scope": limit.scope,
        "name": "it",
        "measure": limit.measure,
        "window": limit.window,
        "rolling": False,
        "ceiling": 5,
        "left": 7,
        "retry_after_s": 2,
    }


@pytest.mark.parametrize(("retry_ms", "says"), [(120_000, None), (120_001, "false")])
def test_nobody_is_to_sleep_for_a_window_that_ends_in_hours(
    retry_ms: int, says: str | None
) -> None:
    refused = denied("rate_limit", Limit("key", "requests", "day", 5), retry_ms)
    assert said(refused)[1].get("x-should-retry") == says


def test_a_limit_on_all_time_does_not_open_again() -> None:
    status, headers = said(denied("rate_limit", Limit("key", "requests", "total", 5)))
    assert (status, headers["x-should-retry"]) == (429, "false")
    assert "retry-after" not in headers


def test_a_concurrency_limit_has_a_retry_after_although_no_window_ends() -> None:
    refused = denied("concurrency_limit", Limit("key", "concurrent", "total", 2), 0)
    assert said(refused) == (
        429,
        {"content-type": "application/json", "x-request-id": "r1", "retry-after": "1"},
    )
    assert refused.detail["limit_source"] == "key it (concurrent requests)"
    assert refused.detail["limit"]["window"] is None
    assert "still running" in refused.message


def test_a_spend_limit_is_402_final_for_now_and_says_when_its_window_ends() -> None:
    refused = denied("spend_limit", Limit("project", "spend", "day", CREDIT), 3_600_000)
    status, headers = said(refused)
    assert (status, headers["x-should-retry"], headers["retry-after"]) == (402, "false", "3600")
    assert "project it (spend per day)" in refused.message
    assert "0.000000007 of 1 credits" in refused.message
    assert (refused.detail["limit"]["ceiling"], refused.detail["limit"]["left"]) == (
        "1",
        "0.000000007",
    )


def test_a_spend_limit_that_others_hold_is_429_and_comes_back() -> None:
    status, headers = said(denied("spend_limit", Limit("key", "spend", "day", CREDIT), 0))
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    assert "x-should-retry" not in headers


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        ("spend_limit", Limit("key", "spend", "total", CREDIT)),
        ("rate_limit", Limit("key", "tokens", "minute", 5, rolling=True)),
        ("concurrency_limit", Limit("key", "concurrent", "total", 0)),
    ],
)
def test_what_no_time_cures_is_not_to_be_retried(reason: DenyReason, limit: Limit) -> None:
    refused = denied(reason, limit)
    status, headers = said(refused)
    assert (status, headers["x-should-retry"]) == (402 if reason == "spend_limit" else 429, "false")
    assert "retry-after" not in headers
    assert "No later time helps" in refused.message
    assert refused.detail["limit"]["retry_after_s"] is None


@pytest.mark.parametrize("reason", ["insufficient_credits", "spend_limit"])
def test_the_switch_for_openai_s_own_status_changes_nothing_else(reason: DenyReason) -> None:
    refused = refused_by_ledger(Denied(reason), insufficient_status=429)
    status, headers = said(refused)
    assert (status, headers["x-should-retry"]) == (429, "false")


@pytest.mark.parametrize(
    "reason",
    [
        "stale_account",
        "stale_windows",
        "went_back",
        "shard_frozen",
        "outbox_full",
        "unknown_account",
    ],
)
def test_a_ledger_that_cannot_decide_is_503_and_worth_another_try(reason: DenyReason) -> None:
    refused = denied(reason)
    status, headers = said(refused)
    assert (status, refused.reason) == (503, reason)
    assert int(headers["retry-after"]) >= 1
    assert "x-should-retry" not in headers


def test_a_frozen_wallet_is_402() -> None:
    assert said(denied("wallet_frozen"))[0] == 402


@pytest.mark.parametrize(
    "refused",
    [
        refused_by_ledger(Denied("wallet_frozen", 5, 0, 9), insufficient_status=429),
        refused_by_kill("wallet_killed"),
        refused_growth("wallet_frozen", "0.1"),
    ],
    ids=["at once", "killed", "cannot grow"],
)
def test_a_frozen_account_is_not_taken_for_an_empty_one(refused: Refused) -> None:
    assert refused.kind == "account_frozen"
    assert "frozen" in refused.message
    assert "Add credits" not in refused.message
    refusal = refused.as_refusal("r")
    assert dict(refusal_headers(refusal))["x-should-retry"] == "false"
    status, body = DIALECTS["openai_chat"].refusal(refusal)
    assert (status, orjson.loads(body)["error"]["code"]) == (402, "account_frozen")
    status, body = DIALECTS["anthropic_messages"].refusal(refusal)
    assert (status, orjson.loads(body)["error"]["type"]) == (402, "billing_error")
    status, body = DIALECTS["gemini_generate"].refusal(refusal)
    details = orjson.loads(body)["error"]["details"]
    assert (status, details[0]["reason"]) == (402, "ACCOUNT_FROZEN")


def test_what_the_parts_of_the_flow_raise_becomes_the_refusal_it_means() -> None:
    bad = as_refused(BadRequest("no", param="n", code="c"))
    assert (bad.kind, bad.message, bad.param, bad.code) == ("bad_request", "no", "n", "c")
    assert as_refused(BodyError("timeout", "slow")).kind == "timeout"
    away = as_refused(LedgerUnavailable("unix:///secret/path is away"))
    assert (away.kind, away.retry_after_s) == ("ledger_unavailable", 1)
    assert "secret" not in away.message


def test_an_upstream_s_failure_says_nothing_of_the_upstream() -> None:
    slow = refused_by_upstream(UpstreamError("https://inner:8000 slow", sent=True, cause="timeout"))
    lost = refused_by_upstream(UpstreamError("https://inner:8000 lost", sent=False, cause="dns"))
    cut = refused_by_upstream(UpstreamError("https://inner:8000 cut", sent=True, cause="reset"))
    assert [said(each)[0] for each in (slow, lost, cut)] == [504, 502, 502]
    assert [each.reason for each in (slow, lost, cut)] == [
        "upstream_timeout",
        "upstream_dns",
        "upstream_reset",
    ]
    assert "closed the connection before completing" in cut.message
    busy = refused_by_upstream(UpstreamError("https://inner:8000 busy", sent=False, cause="busy"))
    assert (said(busy)[0], busy.reason, busy.retry_after_s) == (503, "upstream_busy", 1)
    assert (said(busy)[1]["retry-after"], "inner" in busy.message) == ("1", False)
    assert "inner" not in slow.message + lost.message + cut.message


def test_every_kind_is_either_transient_or_told_not_to_be_retried() -> None:
    for kind in ("no_credit", "bad_key", "bad_request", "not_found", "unknown_model", "too_large"):
        assert kind not in TRANSIENT
        assert said(Refused(kind, "x"))[1]["x-should-retry"] == "false"
