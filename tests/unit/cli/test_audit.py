"""`creditgate audit`: what commands have changed, with who and why, beside a running gate."""

import pytest

from tests.support.delivering import delivered, exporting
from tests.support.gate import Gate

from .desk import Desk


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ann")


async def test_changes_are_listed_with_the_user_and_the_reason(gate: Gate, desk: Desk) -> None:
    async with exporting(gate):
        await desk.ask("key", "create", "acme", "--id", "k9", "--reason", "new laptop")
        await desk.refused("key", "create", "acme", "--id", "k9")
        await desk.run("wallet", "freeze", "acme", "--reason", "disputed")
        await desk.ask("wallet", "grant", "broke", "2.50", "--reason", "sorry")
        await delivered(gate)
    shown = await desk.run("audit", "--actor", "command:ann")
    assert shown.code == 0, shown
    for words in (
        "command:ann", "key.create", "new laptop", "wallet.freeze", "disputed", "grant.create", "2.5",
    ):  # fmt: skip
        assert words in shown.out, shown.out
    found = (await desk.ask("audit", "--action", "key", "--since", "1h"))["entries"]
    # What is refused before anything is written is no change.
    assert [(each["outcome"], each["reason"]) for each in found] == [("made", "new laptop")]
    mine = (await desk.ask("audit", "--customer", "broke", "--actor", "command:ann"))["entries"]
    assert [each["amount"] for each in mine] == ["2.5"]


async def test_a_page_names_the_next_one(gate: Gate, desk: Desk) -> None:
    async with exporting(gate):
        for name in ("k1", "k2", "k3"):
            await desk.ask("key", "create", "acme", "--id", name)
        await delivered(gate)
    asked = ("audit", "--action", "key.create", "-n", "2")
    first = await desk.ask(*asked)
    assert [each["subject"] for each in first["entries"]] == ["k3", "k2"]
    assert f"There are more: --cursor {first['cursor']}" in (await desk.run(*asked)).out
    second = await desk.ask(*asked, "--cursor", first["cursor"])
    assert [each["subject"] for each in second["entries"]] == ["k1"]
    assert second["cursor"] is None
    assert "'x' is not a cursor" in await desk.refused(*asked, "--cursor", "x")


async def test_the_log_before_anything_was_exported_is_empty(gate: Gate, desk: Desk) -> None:
    assert await desk.ask("audit") == {"entries": [], "cursor": None}
