"""The tables of docs/reference/retries.md: each row is asked of a running gate, each refusal of its renderer."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.dialects import DIALECTS
from gateway.domain.limits import Limit
from gateway.domain.money import format_amount
from gateway.domain.reservation import Denied
from gateway.flow.denials import refused_by_ledger
from gateway.flow.refusals import Refused, as_refused, refusal_headers
from gateway.ledger.client.errors import LedgerUnavailable
from tests.support.gate import Gate, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "retries.md").read_text()


def table(first_column: str) -> Iterator[list[list[str]]]:
    """Rows of each table that begins with this column, its header first; backquotes are dropped."""
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        rows = [
            [cell.strip().replace("`", "") for cell in line.split("|")[1:-1]]
            for line in block.splitlines()
        ]
        if rows[0][0] == first_column:
            yield [rows[0], *rows[2:]]


PLAIN, KEPT = table("key")
[LEAVING] = table("caller")
[REFUSALS] = table("refusal")
[CASES] = table("the first request with this key")
CHARGED = re.findall(r"^The customer was charged ([\d.]+) credits\.", PAGE, re.MULTILINE)


def body(text: str, *, slow: str = "") -> dict[str, Any]:
    said = f"{text}\nsim: tokens=100 input=1000{slow}"
    return {"model": "small", "max_tokens": 200, "messages": [{"role": "user", "content": said}]}


@pytest.mark.parametrize(
    ("rows", "charged", "policy"),
    [
        (PLAIN, CHARGED[0], {"preset": "balanced"}),
        (KEPT, CHARGED[1], {"preset": "balanced", "keep_answers": True}),
    ],
)
async def test_a_key_is_used_as_the_page_says(
    tmp_path: Path, valkey_socket: Path, sim: Sim, rows: Any, charged: str, policy: Any
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url, policy=policy) as gate:
        told = []
        for key, text, *_ in rows[1:]:
            headers = {"idempotency-key": key} if key else {}
            answer = await gate.post("/v1/chat/completions", body(text), headers)
            await gate.settle_all()
            code = (answer.json().get("error") or {}).get("code") or ""
            said = [answer.headers.get(name, "") for name in rows[0][4:]]
            told.append([key, text, str(answer.status_code), code, *said])
        assert told == rows[1:]
        assert format_amount(await gate.settled_nano()) == charged


async def test_retries_without_a_key_are_charged_and_marked_as_the_page_says(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        asked = body("hello", slow=" ttft_ms=300")
        for caller, *_ in LEAVING[1:]:
            await ask_as(gate, caller, asked)
        events = await gate.events()
        ids = {str(event.facts["request_id"]): event for event in events}
        names = dict(zip(ids, ("the first", "the second"), strict=False))
        told = [
            [caller, format_amount(event.amount_nano), names.get(event.facts["retry_of"], "")]
            for (caller, *_), event in zip(LEAVING[1:], ids.values(), strict=True)
        ]
        assert told == LEAVING[1:]


async def ask_as(gate: Gate, caller: str, asked: dict[str, Any]) -> None:
    """One request, by a caller who waits for its answer or leaves; until it has been settled."""
    before = len(await gate.events())
    async with httpx.AsyncClient(
        base_url=gate.url, timeout=httpx.Timeout(10, read={"leaves": 0.1, "waits": 10}[caller])
    ) as client:
        try:
            answer = await client.post("/v1/chat/completions", json=asked, headers=gate.headers)
            assert (caller, answer.status_code) == ("waits", 200)
        except httpx.ReadTimeout:
            assert caller == "leaves"

    async def settled() -> bool:
        return len(await gate.events()) > before

    await until(settled)
    await gate.settle_all()


def by_ledger(
    reason: Any, limit: Limit | None = None, retry_after_ms: int | None = None
) -> Refused:
    denied = Denied(reason, limit=limit, retry_after_ms=retry_after_ms)
    return refused_by_ledger(denied, insufficient_status=402)


DAILY = Limit("key", "spend", "day", 5)
SAID: dict[str, list[tuple[Refused, str, str]]] = {
    "no credit, a spend limit, a frozen wallet": [
        (by_ledger("insufficient_credits"), "", "false"),
        (by_ledger("spend_limit", DAILY, 9000), "9", "false"),
        (by_ledger("wallet_frozen"), "", "false"),
    ],
    "a limit on requests or tokens": [
        (by_ledger("rate_limit", Limit("key", "requests", "hour", 5), 120_000), "120", ""),
        (by_ledger("rate_limit", Limit("key", "tokens", "hour", 5), 121_000), "121", "false"),
    ],
    "a lifetime limit that is used up": [
        (by_ledger("rate_limit", Limit("key", "requests", "total", 5)), "", "false")
    ],
    "a limit on concurrent requests, or one whose rest is held by others": [
        (by_ledger("concurrency_limit", Limit("key", "concurrent", "total", 5), 0), "1", ""),
        (by_ledger("rate_limit", Limit("key", "requests", "total", 5), 0), "1", ""),
    ],
    "credit that other requests hold": [(by_ledger("credit_held"), "2", "")],
    "a key whose first request is still running": [(Refused("conflict", "x"), "2", "")],
    "a key whose request was charged": [(Refused("already_done", "x"), "", "false")],
    "a key with another body": [(Refused("unprocessable", "x"), "", "false")],
    "the ledger is unreachable, the gate shuts down": [
        (as_refused(LedgerUnavailable("x")), "1", ""),
        (Refused("shutting_down", "x"), "1", ""),
    ],
}


@pytest.mark.parametrize("row", REFUSALS[1:], ids=lambda row: row[0])
def test_a_refusal_carries_what_the_page_says(row: list[str]) -> None:
    refusal, status, retry_after, final = row
    for refused, waits, stops in SAID[refusal]:
        for dialect in ("openai_chat", "anthropic_messages"):
            value = refused.as_refusal("r1")
            headers = dict(refusal_headers(value))
            assert str(DIALECTS[dialect].refusal(value)[0]) == status
            assert headers.get("retry-after", "") == waits
            assert headers.get("x-should-retry", "") == stops
    fixed = {waits for _, waits, _ in SAID[refusal]}
    assert retry_after in fixed or "until its window ends" in retry_after
    assert {stops for *_, stops in SAID[refusal]} <= {final, ""} or final == "false beyond 120 s"


def test_the_page_tells_of_every_refusal_that_this_test_knows() -> None:
    assert [row[0] for row in REFUSALS[1:]] == list(SAID)
    assert len(CASES) == 4
    assert len(CHARGED) == 2
