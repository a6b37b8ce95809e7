"""What changes something on the operator's side is done once, however often it is run: the second
time the entries, the wallets and the keys are as they were, and what was done is told again."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.domain.delivery import START
from gateway.domain.event_rows import row_of
from gateway.domain.events import Event
from gateway.exporter.sink import Batch
from tests.ledger.relay import Relay
from tests.support.gate import SHARDS, Gate, gate_config
from tests.support.outbox_entries import read_entries
from tests.support.stores import events_path, sqlite_sink
from tests.unit.cli.desk import Desk

REASON = ("--reason", "a test")


async def stored_event(gate: Gate) -> str:
    """A request's event, in the store."""
    await gate.chat("hi\nsim: tokens=5", max_tokens=8)
    event = await gate.one_event()
    sink = sqlite_sink(events_path(gate.settings))
    await sink.open()
    await sink.write(
        Batch([row_of(each) for each in await entries(gate) if isinstance(each, Event)])
    )
    await sink.close()
    return event.event_id


async def entries(gate: Gate) -> list[Any]:
    tails = await read_entries(gate.outbox, dict.fromkeys(range(SHARDS), START), limit=100_000)
    return [entry for _, tail in tails for entry in tail]


async def everything(gate: Gate) -> list[Any]:
    """All that the ledger has, but for what its clock moves."""
    client: Any = gate.store._client
    kept = [key async for key in client.scan_iter("{cg*}:*") if not key.endswith(b":refusals")]
    return [(key, await client.dump(key)) for key in sorted(kept)]


@pytest.mark.parametrize(
    "words",
    [
        ("wallet", "grant", "acme", "5.00", "--key", "payment-7"),
        ("adjust", "acme", "2.50", *REASON, "--key", "k-1"),
        ("adjust", "acme", "-2.50", *REASON, "--key", "k-1"),
        ("refund", "EVENT", *REASON, "--key", "k-1"),
        ("refund", "EVENT", *REASON, "--key", "k-1", "--amount", "0.00001"),
        ("wallet", "void", "acme", "1", *REASON),
    ],
    ids=lambda words: " ".join(words[:3]),
)
async def test_the_second_time_answers_what_was_done_and_changes_nothing(
    gate: Gate, desk: Desk, words: tuple[str, ...]
) -> None:
    event_id = await stored_event(gate)
    said = tuple(word.replace("EVENT", event_id) for word in words)
    first = await desk.ask(*said)
    before = await everything(gate)
    again = await desk.ask(*said)
    assert await everything(gate) == before
    assert (first.pop("replayed"), again.pop("replayed")) == (False, True)
    assert again == first


@pytest.mark.parametrize(
    ("words", "other"),
    [
        (("adjust", "acme", "2.50"), ("adjust", "acme", "2.51")),
        (("adjust", "acme", "2.50"), ("adjust", "acme", "-2.50")),
        (("refund", "EVENT", "--amount", "0.00001"), ("refund", "EVENT", "--amount", "0.00002")),
    ],
)
async def test_a_key_used_for_other_terms_is_refused_and_changes_nothing(
    gate: Gate, desk: Desk, words: tuple[str, ...], other: tuple[str, ...]
) -> None:
    event_id = await stored_event(gate)
    one, two = (
        (*(word.replace("EVENT", event_id) for word in said), *REASON, "--key", "k-1")
        for said in (words, other)
    )
    await desk.ask(*one)
    before = await everything(gate)
    err = await desk.refused(*two)
    assert "k-1" in err
    assert "Nothing was changed" in err
    assert await everything(gate) == before


async def test_freeze_and_thaw_say_what_shall_be(gate: Gate, desk: Desk) -> None:
    for verb, word in (("freeze", "frozen"), ("thaw", "active")):
        assert f"acme is {word}: " in (await desk.run("wallet", verb, "acme")).out
        before = await everything(gate)
        assert f"acme is already {word}: " in (await desk.run("wallet", verb, "acme")).out
        assert await everything(gate) == before


async def test_a_key_by_its_name_is_made_once_and_revoked_once(gate: Gate, desk: Desk) -> None:
    await desk.ask("key", "create", "acme", "--id", "k-ci")
    before = await everything(gate)
    assert "there is a key k-ci already" in await desk.refused(
        "key", "create", "acme", "--id", "k-ci"
    )
    assert await everything(gate) == before
    first = await desk.ask("key", "revoke", "k-ci")
    kept = await gate.store.keys.entries()
    # Gates are told once more: the first call may have died between the two.
    assert await desk.ask("key", "revoke", "k-ci") == first
    assert await gate.store.keys.entries() == kept


KEPT_KEY: Final = (b"HSETNX", b"{cg}:keys", b"k-lost")


class CutsTheKey(Relay):
    """Passes all but the answer to the command that keeps a key, which its index precedes."""

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                self.cut_replies |= not is_reply and all(each in data for each in KEPT_KEY)
                if is_reply and self.cut_replies:
                    self.replies_cut += 1
                    return
                target.write(data)
                await target.drain()


async def test_a_lost_answer_to_a_key_says_how_to_be_rid_of_it(
    gate: Gate, desk: Desk, tmp_path: Path, valkey_socket: Path
) -> None:
    relay = CutsTheKey(valkey_socket)
    await relay.listen_unix(tmp_path / "relay")
    config = gate_config("http://127.0.0.1:9", tmp_path / "data", f"unix://{tmp_path}/relay")
    (tmp_path / "relayed.yaml").write_text(yaml.safe_dump(config))
    err = await Desk(tmp_path / "relayed.yaml").refused("key", "create", "acme", "--id", "k-lost")
    assert relay.replies_cut > 0
    assert "Whether the key k-lost was created is not known" in err
    assert "creditgate key revoke k-lost" in err
    await relay.close()
    assert (await desk.ask("key", "revoke", "k-lost"))["revoked_at"] is not None


async def test_the_admin_side_over_http_changes_nothing_yet(gate: Gate) -> None:
    """Whoever adds a path that does gives it an operation id, and takes this test's place."""
    from gateway.app.health_server import AdminSide, Readiness, admin_app

    async def metrics() -> dict[str, Any]:
        return {}

    side = AdminSide(lambda: Readiness(True), metrics, "t")
    methods = {route.method for route in admin_app(side).router.routes()}
    assert methods <= {"GET", "HEAD"}
