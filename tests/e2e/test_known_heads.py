"""What the gate concluded from a head is used again only as long as it is right."""

from dataclasses import dataclass
from typing import Any

from gateway.ledger.keys import AccountRead
from tests.support.gate import Gate, digest


@dataclass
class Interrupted:
    """The directory of keys; after it has read the first account, something else happens."""

    directory: Any
    meanwhile: Any
    reads: int = 0

    async def read_account(self, *whose: str) -> AccountRead:
        found: AccountRead = await self.directory.read_account(*whose)
        self.reads += 1
        if self.reads == 1:
            await self.meanwhile()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.directory, name)


async def test_an_account_that_changes_while_its_key_is_looked_up_is_read_again(
    gate: Gate,
) -> None:
    await gate.store.keys.add(digest("sk-made"), "k-made", "acme")
    await gate.store.keys.add(digest("sk-gone"), "k-gone", "acme")
    accounts = gate.service.configuration._flow.accounts
    directory = accounts._directory

    async def change() -> None:
        # Another request of the customer notices the change first.
        await gate.store.keys.revoke(gate.ledger.wallets, "k-gone")
        assert (await gate.chat()).status_code == 200

    assert (await gate.chat()).status_code == 200
    accounts._directory = Interrupted(directory, change)
    made = {"authorization": "Bearer sk-made"}
    body = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}
    answers = [await gate.post("/v1/chat/completions", body, made) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 200], answers[0].text


async def test_a_repeat_is_recognised_when_the_account_has_changed_since(gate: Gate) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}
    named = {"idempotency-key": "one"}
    assert (await gate.post("/v1/chat/completions", body, named)).status_code == 200
    await gate.settle_all()
    await gate.ledger.wallets.bump("acme", {"reason": "a test"})
    repeat = await gate.post("/v1/chat/completions", body, named)
    assert (repeat.status_code, repeat.json()["error"]["code"]) == (409, "already_done")
    assert len(await gate.events()) == 1
