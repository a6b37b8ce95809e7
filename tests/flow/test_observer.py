"""What is told of a request: one line, the right counters, and a refusal to look up later."""

from collections.abc import Callable
from types import SimpleNamespace as Namespace
from typing import Any, get_args

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from gateway.dialects import DIALECTS
from gateway.domain.reservation import Account, Denied
from gateway.flow.context import RequestContext, new_request_id
from gateway.flow.observer import Observer
from gateway.flow.refusals import Particulars, Refused
from gateway.http.interface import UpstreamCause, UpstreamError
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.key_uses import KeyUses
from gateway.ledger.refusals import RefusalLog, find_refusal
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.names import GateMetrics

from .asked import Asked

ACME = Account("acme", "k1", 0, 1)


class Lines(RequestLog):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.noted: list[dict[str, Any]] = []

    def note(self, line: dict[str, Any]) -> None:
        self.noted.append(line)


class Noticed:
    """An observer over the real refusal log, and what it left behind."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self.lines = Lines()
        self.refusals = RefusalLog(client)
        self.uses = KeyUses(client, Keys())
        self.observer = Observer(GateMetrics(), self.lines, self.refusals, self.uses)

    def value(self, name: str) -> dict[tuple[str, ...], Any]:
        samples = self.observer.metrics.registry.snapshot()[name]["samples"]
        return {tuple(labels): value for labels, value in samples}


def context(**known: Any) -> RequestContext:
    """A request of which so much is known."""
    made = RequestContext(Asked(), DIALECTS["openai_chat"])
    plan: Any = Namespace(model=Namespace(upstream=Namespace(name="sim")))
    made.plan = plan
    for name, value in known.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def seen(valkey: redis.asyncio.Redis) -> Noticed:
    return Noticed(valkey)


async def test_a_denial_of_a_known_customer_is_counted_and_kept_for_why(
    seen: Noticed,
) -> None:
    request = context(account=ACME, model_name="m", denied=Denied("rate_limit", 5, 4, 3))
    refused = Refused(
        "rate_limited", "slow", Particulars(reason="rate_limit", detail={"limit_source": "key"})
    )
    seen.observer.denied(request, refused, 429)
    await seen.refusals.flush()
    noted = await find_refusal(seen.client, request.request_id)
    assert noted is not None
    kept = noted.refused
    assert (kept.reason, kept.status, kept.customer_id, kept.key_id) == (
        "rate_limit",
        429,
        "acme",
        "k1",
    )
    assert (kept.estimate_nano, kept.available_nano, kept.balance_nano) == (5, 4, 3)
    assert (kept.limit, kept.message, kept.model) == ("key", "slow", "m")
    assert seen.value("creditgate_decisions_total")["deny", "rate_limit"] == 1


async def test_strangers_are_counted_and_get_no_memory(seen: Noticed) -> None:
    request = context()
    seen.observer.denied(request, Refused("bad_key", "no"), 401)
    await seen.refusals.flush()
    assert await find_refusal(seen.client, request.request_id) is None
    assert seen.value("creditgate_decisions_total")["deny", "bad_key"] == 1


@pytest.mark.parametrize("cause", get_args(UpstreamCause))
async def test_an_upstream_s_failures_are_counted_by_what_failed(
    seen: Noticed, cause: UpstreamCause
) -> None:
    request = context()
    seen.observer.upstream_failed(request, UpstreamError("what", sent=False, cause=cause))
    assert seen.value("creditgate_upstream_failures_total") == {("sim", cause): 1}
    assert request.upstream_error == "what"


async def test_an_admission_is_counted_and_what_fails_later_is_no_denial(
    seen: Noticed,
) -> None:
    request = context()
    seen.observer.admitted(request)
    assert request.admitted
    assert seen.value("creditgate_decisions_total") == {("allow", ""): 1}


async def test_each_request_is_one_line_that_names_nothing_it_should_not(
    seen: Noticed,
) -> None:
    request = context(
        account=ACME, model_name="m", held_nano=7, reason="client_gone", upstream_s=0.25
    )
    asked = Asked(key="sk-canary", method="POST" * 10, path="/v1/x?key=sk-canary")
    asked.status = 200
    request.exchange = asked
    seen.observer.request(request)
    [line] = seen.lines.noted
    assert line["request_id"] == request.request_id
    assert (line["customer_id"], line["key_id"], line["model"]) == ("acme", "k1", "m")
    assert (line["status"], line["held_nano"], line["upstream_ms"]) == (200, 7, 250.0)
    assert (line["decision"], line["reason"]) == ("allow", "client_gone")
    assert len(line["method"]) == 16
    assert "canary" not in repr(line)


async def test_a_fault_is_told_by_type_and_place(seen: Noticed) -> None:
    with capture_logs() as logs:
        try:
            raise RuntimeError("sk-canary")
        except RuntimeError as fault:
            seen.observer.fault(context(request_id="r1"), fault)
    [line] = logs
    assert (line["event"], line["request_id"], line["error"]) == (
        "request_failed",
        "r1",
        "RuntimeError",
    )
    assert "canary" not in repr(line)


def test_request_ids_are_unique_and_sort_by_time() -> None:
    made: Callable[[], str] = new_request_id
    ids = [made() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(each) == 32 for each in ids)
    assert [each[:12] for each in ids] == sorted(each[:12] for each in ids)
