"""Operations without a command line: typed results, typed errors."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.app.backend import open_backend
from gateway.app.quoting import RequestToQuote, quote_request
from gateway.domain.money import parse_amount
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.operations.adjust import AdjustRequest, adjust
from gateway.operations.backend import Backend
from gateway.operations.errors import Conflict, NotFound, OutcomeUnknown
from gateway.operations.events import show_event
from gateway.operations.freeze import StatusSet, freeze, kill, thaw
from gateway.operations.grant import GrantMade, GrantRequest, grant
from gateway.operations.holds import list_holds, release_hold
from gateway.operations.idempotency import Change, is_idempotency_key, new_idempotency_key
from gateway.operations.keys import NewKey, create_key, list_keys, revoke_key
from gateway.operations.plan_prices import PlanRequest, plan_prices
from gateway.operations.price_books import activate_book, roll_back_prices, show_book
from gateway.operations.price_changes import pending_prices
from gateway.operations.refund import RefundRequest, refund
from gateway.operations.repair_shards import repair_shards
from gateway.operations.shards import report_ledger
from gateway.operations.void import void
from gateway.operations.wallets import list_wallets, show_wallet
from gateway.operations.why import why
from tests.support.gate import SHARDS, Gate, running_gate
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

CREDIT = parse_amount("1")


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    async with running_gate(tmp_path, valkey_socket, sim.url) as running:
        yield running


@pytest.fixture
async def backend(gate: Gate) -> AsyncIterator[Backend]:
    async with open_backend(gate.settings) as opened:
        yield opened


def ignore(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


async def test_credit_is_given_and_taken_once_by_its_key(backend: Backend) -> None:
    request = GrantRequest("acme", "pay-1", 5 * CREDIT, name="top-up")
    made = await grant(backend, request)
    assert made == GrantMade("acme", "pay-1", 5 * CREDIT, 2, 15 * CREDIT, replayed=False)
    assert (await grant(backend, request)).replayed
    with pytest.raises(Conflict, match="the key pay-1 was used for another grant to acme"):
        await grant(backend, GrantRequest("acme", "pay-1", 6 * CREDIT))
    adjusted = await adjust(backend, AdjustRequest("acme", "a-1", -2 * CREDIT, "mistake"))
    assert (adjusted.balance_nano, adjusted.replayed) == (13 * CREDIT, False)
    voided = await void(backend, "acme", 2, "chargeback")
    assert (voided.voided_nano, voided.balance_nano, voided.replayed) == (
        5 * CREDIT,
        8 * CREDIT,
        False,
    )
    with pytest.raises(Conflict, match="has no grant 7"):
        await void(backend, "acme", 7, "chargeback")
    view = await show_wallet(backend, "acme")
    assert view.names == {1: "start", 2: "top-up"}
    assert view.voided == {2}
    assert view.wallet.balance_nano(view.now_ms) == 8 * CREDIT


async def test_a_status_is_set_and_set_again(backend: Backend) -> None:
    assert await freeze(backend, "acme", "fraud?") == StatusSet("acme", "frozen", changed=True)
    assert await freeze(backend, "acme") == StatusSet("acme", "frozen", changed=False)
    assert await kill(backend, "acme") == StatusSet("acme", "killed", changed=True)
    assert await thaw(backend, "acme") == StatusSet("acme", "active", changed=True)


async def test_keys_are_created_listed_and_revoked(backend: Backend) -> None:
    created = await create_key(backend, NewKey("acme", key_id="k_ci"))
    assert created.secret.startswith("sk-cg-")
    entries = {entry.key_id: entry for entry in await list_keys(backend, "acme")}
    assert entries == {"k_ci": created.entry, "k_acme": entries["k_acme"]}
    assert entries["k_acme"].kept_in == "configuration"
    assert (await revoke_key(backend, "k_ci")).revoked_at_ms is not None
    with pytest.raises(Conflict, match="in the configuration already"):
        await create_key(backend, NewKey("acme", key_id="k_acme"))
    with pytest.raises(Conflict, match="there is a key k_ci already"):
        await create_key(backend, NewKey("acme", key_id="k_ci"))
    with pytest.raises(Conflict, match=r"under customers\.acme: remove it"):
        await revoke_key(backend, "k_acme")
    with pytest.raises(NotFound, match="there is no key k_cj"):
        await revoke_key(backend, "k_cj")


async def test_a_request_is_explained_and_refunded(gate: Gate, backend: Backend) -> None:
    assert (await gate.chat("hi\nsim: tokens=5")).status_code == 200
    event = await gate.one_event()
    assert event.reservation_id is not None
    story = await why(backend, event.reservation_id)
    assert (story.decision, story.charged_nano) == ("allowed", event.amount_nano)
    assert [trace.stored_at_ms for trace in story.events] == [None]
    assert (await why(backend, "nobody")).decision == "unknown"
    # Nothing has been exported: a refund needs the event's record in the store.
    with pytest.raises(NotFound, match="still being delivered: retry"):
        await refund(backend, RefundRequest(event.event_id, "r-1", "slow"))
    with pytest.raises(NotFound, match="the store has no event"):
        show_event(backend.store, event.event_id)


async def test_holds_are_listed_and_an_ended_one_is_not_released(
    gate: Gate, backend: Backend
) -> None:
    assert (await list_holds(backend)).holds == []
    await gate.chat("hi\nsim: tokens=5")
    event = await gate.one_event()
    assert event.reservation_id is not None
    ended = await release_hold(backend, event.reservation_id)
    assert (ended.outcome, ended.charged_nano, ended.given_back_nano) == (
        "settled",
        event.amount_nano,
        0,
    )
    with pytest.raises(NotFound, match="the ledger has no request req-0"):
        await release_hold(backend, "req-0")


async def test_a_quote_comes_with_values_alone(gate: Gate, backend: Backend) -> None:
    body = b'{"model":"small","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}'
    request = RequestToQuote("acme", "/v1/chat/completions", body)
    quoted = await quote_request(gate.settings, backend, request)
    assert (quoted.hold.decision, quoted.request.output) == ("allow", 100)
    assert quoted.at_most_nano == quoted.hold.estimate_nano
    assert [line.unit for line in quoted.held] == ["input", "output"]
    with pytest.raises(NotFound, match="there is no endpoint /v1/chat"):
        await quote_request(gate.settings, backend, RequestToQuote("acme", "/v1/chat", body))
    with pytest.raises(Conflict, match="would refuse this body with 400"):
        await quote_request(
            gate.settings, backend, RequestToQuote("acme", "/v1/chat/completions", b"{")
        )


async def test_prices_are_shown_and_planned(backend: Backend) -> None:
    view = await show_book(backend)
    assert view.book.models.keys() == {"small", "dear"}
    assert await pending_prices(backend, backend.configured.price_draft()) is None
    with pytest.raises(NotFound, match="no price book 9"):
        await show_book(backend, 9)
    with pytest.raises(NotFound, match="no price book 9"):
        await activate_book(backend, 9)
    with pytest.raises(Conflict):
        await roll_back_prices(backend)
    plan = PlanRequest(backend.configured.price_draft(), backend.configured.billing_day)
    with pytest.raises(NotFound, match="nothing to compare"):
        await plan_prices(backend, plan)


async def test_a_ledger_without_losses_is_well_and_needs_no_repair(backend: Backend) -> None:
    report = await report_ledger(backend)
    assert (report.well, report.trouble, report.shut) == (True, None, ())
    assert len(report.shards) == SHARDS
    repaired = await repair_shards(backend, None, ignore)
    assert (repaired.clean, repaired.shards, repaired.not_written) == (True, [], None)
    with pytest.raises(NotFound, match=f"there is no shard {SHARDS}"):
        await repair_shards(backend, SHARDS, ignore)


async def test_who_is_not_known_is_not_found_by_any_operation(backend: Backend) -> None:
    nobody = "acmee"
    for attempt in (
        show_wallet(backend, nobody),
        grant(backend, GrantRequest(nobody, "k", CREDIT)),
        adjust(backend, AdjustRequest(nobody, "k", CREDIT, "x")),
        void(backend, nobody, 1, "x"),
        freeze(backend, nobody),
        list_holds(backend, nobody),
        create_key(backend, NewKey(nobody)),
        list_keys(backend, nobody),
    ):
        with pytest.raises(NotFound, match="Did you mean 'acme'"):
            await attempt
    entries = await list_wallets(backend)
    assert [(entry.customer_id, entry.wallet is None) for entry in entries] == [
        ("acme", False),
        ("broke", False),
    ]


def test_a_change_explains_what_the_ledger_refuses_and_what_is_not_known() -> None:
    change = Change("k-1", "granted", "acme", {"word": "{key} of {subject}"})
    with pytest.raises(Conflict, match="k-1 of acme"), change.explained():
        raise LedgerRefusal("word")
    with pytest.raises(LedgerRefusal), change.explained():
        raise LedgerRefusal("another")
    with (
        pytest.raises(OutcomeUnknown, match="Whether acme was granted") as lost,
        change.explained(),
    ):
        raise LedgerUnavailable("cut", unknown=True)
    assert lost.value.key == "k-1"
    with pytest.raises(LedgerUnavailable, match="away"), change.explained():
        raise LedgerUnavailable("away")


@pytest.mark.parametrize("key", ["", "k" * 65, "ü", "a\nb"])
def test_what_is_no_idempotency_key(key: str) -> None:
    assert not is_idempotency_key(key)
    assert is_idempotency_key(new_idempotency_key())
