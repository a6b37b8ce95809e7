"""Free endpoints are admitted like any other, at the price 0."""

from tests.support.gate import BROKE_KEY, Gate, Serve, digest
from tests.support.upstreams import Sim

COUNT = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
PATH = "/v1/messages/count_tokens"


async def test_a_wallet_without_credit_may_use_a_free_route(gate: Gate, sim: Sim) -> None:
    broke = {"authorization": f"Bearer {BROKE_KEY}"}
    assert (await gate.post("/v1/messages", COUNT | {"max_tokens": 9}, broke)).status_code == 402
    assert (await gate.post(PATH, COUNT, broke)).status_code == 200
    event = await gate.one_event("broke")
    assert (event.kind, event.amount_nano, event.estimated_amount_nano) == ("settle", 0, 0)
    assert sim.provider.served.posts == 1


async def test_a_frozen_account_is_refused_on_a_free_route(gate: Gate, sim: Sim) -> None:
    assert (await gate.post(PATH, COUNT)).status_code == 200
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    await gate.ledger.account("acme", account_rev=wallet.account_rev + 1, frozen=True)
    refused = await gate.post(PATH, COUNT)
    assert refused.status_code == 402
    assert "frozen" in refused.text
    assert sim.provider.served.posts == 1


async def test_a_free_request_counts_in_a_limit_on_requests(serve: Serve, sim: Sim) -> None:
    key = {"id": "k_free", "sha256": digest("sk-free")}
    limits = [{"measure": "requests", "ceiling": "1", "window": "day", "scope": "customer"}]
    async with serve(customers={"acme": {"keys": [key], "limits": limits}}) as gate:
        sent = [await gate.post(PATH, COUNT, {"authorization": "Bearer sk-free"}) for _ in "12"]
        assert [answer.status_code for answer in sent] == [200, 429]
    assert sim.provider.served.posts == 1
