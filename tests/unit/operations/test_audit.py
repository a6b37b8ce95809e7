"""The audit log: every change with who made it and why, once, in one shape, whatever it was."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app.backend import command_actor, open_backend
from gateway.domain.actors import Actor
from gateway.domain.delivery import Place
from gateway.domain.event_rows import row_of
from gateway.domain.events import Event
from gateway.domain.money import parse_amount
from gateway.exporter.sink import Batch
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.operations import freeze as status
from gateway.operations.adjust import AdjustRequest, adjust
from gateway.operations.audit import (
    AuditEntry,
    AuditFilter,
    Noted,
    audit_document,
    audited,
    list_audit,
    record,
)
from gateway.operations.backend import Backend
from gateway.operations.errors import Conflict, NotFound, OperationError, OutcomeUnknown
from gateway.operations.grant import GrantRequest, grant
from gateway.operations.keys import NewKey, create_key, revoke_key
from gateway.operations.price_books import activate_book, apply_prices, roll_back_prices
from gateway.operations.void import void
from tests.support.gate import Gate, running_gate
from tests.support.stores import sqlite_access, sqlite_sink
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

CREDIT = parse_amount("1")
ANN = Actor("user", "ann@example.com")


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    async with running_gate(tmp_path, valkey_socket, sim.url) as running:
        yield running


@pytest.fixture
async def backend(gate: Gate) -> AsyncIterator[Backend]:
    async with open_backend(gate.settings) as opened:
        yield replace(opened, actor=ANN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


async def log(backend: Backend, file: Path, **wanted: object) -> list[AuditEntry]:
    """What the store answers, once it has everything."""
    sink = sqlite_sink(file)
    await sink.open()
    for shard in range(backend.outbox.shard_count):
        entries = await backend.outbox.scan(shard, Place(9, 9999))
        events = [entry for entry in entries if isinstance(entry, Event)]
        await sink.write(Batch([row_of(event) for event in events]))
    await sink.close()
    with sqlite_access(file).open() as store:
        page = list_audit(store, AuditFilter(**wanted))  # type: ignore[arg-type]
    return list(page.entries)


async def test_changes_of_a_wallet_say_who_and_why(backend: Backend, file: Path) -> None:
    await grant(backend, GrantRequest("acme", "p1", 5 * CREDIT, name="gift", reason="sorry"))
    await adjust(backend, AdjustRequest("acme", "a1", -CREDIT, "mistake"))
    await void(backend, "acme", 2, "taken back")
    await status.freeze(backend, "acme", "disputed")
    await status.kill(backend, "acme")
    await status.thaw(backend, "acme", "paid")
    found = await log(backend, file, actor=str(ANN))
    assert [
        (each.action, each.subject, each.customer_id, each.reason, each.amount_nano)
        for each in found[::-1]
    ] == [
        ("grant.create", "acme", "acme", "sorry", 5 * CREDIT),
        ("adjustment.create", "acme", "acme", "mistake", -CREDIT),
        ("grant.void", "acme", "acme", "taken back", 5 * CREDIT),
        ("wallet.freeze", "acme", "acme", "disputed", None),
        ("wallet.kill", "acme", "acme", None, None),
        ("wallet.thaw", "acme", "acme", "paid", None),
    ]
    assert (found[0].before, found[0].after) == ({"status": "killed"}, {"status": "active"})


async def test_changes_that_no_wallet_shows_have_an_entry_without_secrets(
    backend: Backend, file: Path
) -> None:
    created = await create_key(backend, NewKey("acme", "web", "k9"), "new laptop")
    await revoke_key(backend, "k9", kill=True, reason="lost laptop")
    found = await log(backend, file, actor=str(ANN))
    assert [(each.action, each.subject, each.reason) for each in found] == [
        ("key.kill", "k9", "lost laptop"),
        ("key.create", "k9", "new laptop"),
    ]
    assert all(each.customer_id == "acme" and each.amount_nano is None for each in found)
    assert found[1].after == {"project_id": "web"}
    assert created.secret not in str(found)
    assert created.entry.digest not in str(found)


async def test_prices_are_noted_with_what_changes(backend: Backend, file: Path) -> None:
    await apply_prices(backend, backend.configured.price_draft(), reason="as configured")
    await activate_book(backend, 1, reason="back")
    await roll_back_prices(backend, "and forth")
    with pytest.raises(NotFound):
        await activate_book(backend, 77)
    found = await log(backend, file, action="prices", actor=str(ANN))
    assert [(each.action, each.reason, each.customer_id) for each in found[::-1]] == [
        ("prices.apply", "as configured", ""),
        ("prices.activate", "back", ""),
        ("prices.rollback", "and forth", ""),
    ]
    assert (found[1].before, found[1].after) == ({"book": 1}, {"book": 1})
    assert audit_document(found[0])["customer_id"] is None


async def test_the_configuration_signs_what_a_gate_writes(backend: Backend, file: Path) -> None:
    found = await log(backend, file, customer_id="acme")
    actions = [each.action for each in found]
    assert {each.actor for each in found} == {"gate:configuration"}
    assert actions == ["grant.create", "account.configure"]


async def test_a_change_that_fails_leaves_a_second_entry(backend: Backend, file: Path) -> None:
    noted = Noted("key.create", "k1", "acme", "try", after={"project_id": None})
    failures: dict[str, tuple[Exception, str, str | None]] = {
        "refused": (Conflict("there is a key k1 already"), "failed", "there is a key k1 already"),
        "lost": (OutcomeUnknown("the answer was lost"), "unknown", "the answer was lost"),
        "bug": (ValueError("sk-secret is no number"), "failed", "ValueError"),
    }
    for error, outcome, told in failures.values():
        with pytest.raises(type(error)):
            async with audited(backend, noted):
                raise error
        await asyncio.sleep(0.002)  # entries are listed by the millisecond
        second, first = (await log(backend, file, action="key"))[:2]
        assert (first.outcome, first.error, first.change_id) == ("made", None, None)
        assert (second.outcome, second.error, second.change_id) == (outcome, told, first.event_id)
        assert (second.subject, second.reason) == ("k1", "try")


async def test_a_change_that_cannot_be_noted_is_not_made(backend: Backend) -> None:
    number = backend.accounts.names.shard_of("acme")
    assert await backend.repair.shards.freeze(number, Place(1, 9999))
    done = False
    with pytest.raises(LedgerUnavailable):
        async with audited(backend, Noted("key.create", "k1", "acme")):
            done = True
    assert not done
    with pytest.raises(LedgerUnavailable):
        await create_key(backend, NewKey("acme", key_id="k1"))
    assert await backend.accounts.keys.entries("acme") == []


async def test_pages_continue_where_the_one_before_ended(backend: Backend, file: Path) -> None:
    made = [await record(backend, Noted("key.create", f"k{n}", "acme")) for n in range(5)]
    await log(backend, file)
    with sqlite_access(file).open() as store:
        seen, cursor = [], None
        for expected in (2, 2, 1):
            page = list_audit(store, AuditFilter(action="key", limit=2, cursor=cursor))
            assert len(page.entries) == expected
            seen += [each.event_id for each in page.entries]
            cursor = page.cursor
        assert cursor is None
        assert sorted(seen) == sorted(made)
        with pytest.raises(OperationError, match="'1-2' is not a cursor"):
            list_audit(store, AuditFilter(cursor="1-2"))


def test_a_process_without_a_named_user_is_known_by_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    assert str(command_actor()) == "command:ann"

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 1234)
    assert str(command_actor()) == "command:uid 1234"
