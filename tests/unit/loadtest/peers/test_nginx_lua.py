"""The Lua peer does the work that it is measured by: it holds, charges what was used, writes events."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from loadtest import children, nginx
from loadtest.bench.cells import BURST, CELLS, JSON_32, JSON_LARGE, KEY, MODELS
from loadtest.generator import Load
from loadtest.nginx import Upstream
from loadtest.peers import nginx_lua
from loadtest.requests import in_turn
from loadtest.tls import TlsFiles
from tests.support.until import until
from tests.support.upstreams import tls_files

__all__ = ["tls_files"]

CREDIT_NANO = 10**15
PRICE = nginx_lua.Price(500, 2000)
REQUESTS = 48
CELLS_SENT = [cell for cell in CELLS if cell.workload in (JSON_32, BURST, JSON_LARGE)]
Peer = tuple[nginx.Nginx, dict[str, str], "redis.Redis"]


def owed_to(url: str) -> int:
    """What this provider says it has served, at the peer's prices."""
    said = httpx.get(f"{url}/_served?rows=0", verify=False).json()["totals"]
    return int(said["input_tokens"] * 500 + said["output_tokens"] * 2000)


@pytest.fixture(params=[False, True], ids=["coalesced", "pooled"])
def peer(request: pytest.FixtureRequest, tmp_path: Path, tls_files: TlsFiles) -> Iterator[Peer]:
    """The proxy, its providers' URLs, and its empty Redis."""
    with (
        children.provider() as plain,
        children.provider(tls_files) as secure,
        children.valkey(tmp_path) as store,
        redis.Redis(unix_socket_path=str(store.socket), decode_responses=True) as client,
        nginx_lua.running(
            tmp_path / "nginx",
            {"plain": Upstream(plain.url), "tls": Upstream(secure.url, tls_files.authority)},
            redis_socket=store.socket,
            customers={KEY: "load"},
            prices=dict.fromkeys(MODELS.values(), PRICE),
            pooled=request.param,
            credit_nano=CREDIT_NANO,
        ) as proxy,
    ):
        yield proxy, {"plain": plain.url, "tls": secure.url}, client


@pytest.mark.debian
async def test_each_answer_is_charged_as_the_provider_counted_it_and_has_one_event(
    peer: Peer,
) -> None:
    proxy, providers, client = peer
    for cell in CELLS_SENT:
        url = proxy.url(cell.upstream, streams=cell.stream)
        shots = [cell.shot({})] * REQUESTS
        result = await Load(url, in_turn(shots), connections=cell.connections).run()
        assert result.good == REQUESTS, cell.name
    owed, every = sum(map(owed_to, providers.values())), REQUESTS * len(CELLS_SENT)
    assert owed > 0
    # settles are queued: the worker's timer has sent them a moment later
    await until(lambda: int(client.xlen(nginx_lua.OUTBOX)) >= every)
    events: Any = client.xrange(nginx_lua.OUTBOX)
    assert len({fields["request"] for _, fields in events}) == len(events) == every
    assert sum(int(fields["amount"]) for _, fields in events) == owed
    assert client.hgetall("w:load") == {"balance": str(CREDIT_NANO - owed), "held": "0"}
    assert not client.keys("h:*")


@pytest.mark.debian
def test_a_wallet_that_cannot_pay_is_refused_before_the_provider_hears_of_it(
    peer: Peer,
) -> None:
    proxy, providers, client = peer
    client.hset("w:load", "balance", 1)
    ask = {
        "model": MODELS["plain"],
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "a"}],
    }
    url = proxy.url("plain", streams=False) + "/v1/chat/completions"
    answer = httpx.post(url, json=ask, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 402
    assert httpx.post(url, json=ask, headers={"authorization": "Bearer no"}).status_code == 401
    assert owed_to(providers["plain"]) == 0
