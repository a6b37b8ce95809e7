"""Customers that live in the ledger: time to start, memory of a worker, and a cold customer's request.

    make growth ARGS="--only directory"            # a million customers, 100,000 of them active
    make growth ARGS="--only directory --most 100000"

A tenth of the customers is active: each sends a request after the start, so that the worker's cache holds
all of them. A cold request is a customer's first one at this worker, a warm one its second; both go one
after the other over one connection, to the same customers.
"""

import hashlib
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import redis.asyncio
import uvloop

from gateway.domain.customers import CustomerRecord
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.codec.customer_records import pack_customer
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.stored_keys import StoredKey, pack_key
from gateway.ledger.shards import Shards
from gateway.settings import Settings, load_settings
from gateway.settings.wallet_terms import plan_digests, record_terms
from loadtest import children
from loadtest import gate as gates
from loadtest.generator import Load
from loadtest.growth.chart import Line, Panel
from loadtest.growth.gate import MIB, START_WITHIN_S, Found, Tell, in_mib, uss_bytes
from loadtest.growth.places import Server, fill_customers, names_of
from loadtest.requests import CLIENT_HEADERS, Shot, chat_body, http_request, in_turn

SIZES: Final = (1000, 10_000, 100_000, 1_000_000)
ACTIVE_OF: Final = 10
"""One customer in so many is active."""
SAMPLED: Final = 500
CONNECTIONS: Final = 16
PLAN: Final = "starter"
_PLANS: Final = {PLAN: {"billing_day": 1}}
_COPIES_AT_ONCE: Final = 5_000

_RECORDS: Final = """
for i = 3, #ARGV, 2 do
  local customer, digest = ARGV[i], ARGV[i + 1]
  redis.call('SET', KEYS[1] .. 'c:' .. customer, ARGV[1])
  redis.call('ZADD', KEYS[1] .. 'directory', 0, customer)
  redis.call('HINCRBY', KEYS[1] .. 'plan_counts', ARGV[2], 1)
  redis.call('SADD', KEYS[1] .. 'keys:' .. customer, digest)
end
"""


def directory(most: float, tell: Tell) -> Found:
    """Start, memory and requests, by customers of the ledger."""
    sizes = [size for size in SIZES if size <= most]
    rows = []
    for size in sizes:
        with (
            tempfile.TemporaryDirectory(prefix="growth-") as name,
            children.valkey(Path(name)) as store,
            children.provider() as provider,
        ):
            rows.append(_measure(Path(name), store.socket, provider.url, size, tell))
    columns = (
        "customers",
        "active",
        "start, s",
        "worker at the start, MiB",
        "with the active ones, MiB",
        "KiB an active one",
        "cold request, ms",
        "warm, ms",
        "ledger, MiB",
    )
    told = [
        (
            f"{row['customers']:,}",
            f"{row['active']:,}",
            f"{row['start_s']:.1f}",
            f"{row['fresh_bytes'] / MIB:.1f}",
            f"{row['used_bytes'] / MIB:.1f}",
            f"{(row['used_bytes'] - row['fresh_bytes']) / row['active'] / 1024:.1f}",
            f"{row['cold_ms']:.2f}",
            f"{row['warm_ms']:.2f}",
            f"{row['ledger_bytes'] / MIB:.0f}",
        )
        for row in rows
    ]
    axis = "customers in the ledger, a tenth active"
    memory = [
        Line("at the start", sizes, in_mib([row["fresh_bytes"] for row in rows])),
        Line("with the active ones", sizes, in_mib([row["used_bytes"] for row in rows])),
    ]
    asked = [Line(name, sizes, [row[f"{name}_ms"] for row in rows]) for name in ("cold", "warm")]
    panels = [
        Panel("Memory of a worker", axis, "MiB", memory),
        Panel(
            "Start",
            axis,
            "seconds until it serves",
            [Line("start", sizes, [row["start_s"] for row in rows])],
        ),
        Panel("A request, median", axis, "ms", asked),
    ]
    return Found({"directories": rows}, panels, columns, told)


def _measure(folder: Path, socket: Path, upstream: str, size: int, tell: Tell) -> dict[str, Any]:
    config = gates.write_config(
        folder, upstream, redis_url=f"unix://{socket}", keys=(), changes={"plans": _PLANS}
    )
    with gates.serving(config, ready_s=START_WITHIN_S):
        pass  # creates the ledger
    tell(f"filling a ledger with {size:,} customers")
    ledger_bytes = uvloop.run(_fill(load_settings(config), socket, size))
    tell(f"starting with {size:,} customers")
    started_s = time.monotonic()
    with gates.serving(config, ready_s=START_WITHIN_S) as gate:
        start_s = time.monotonic() - started_s
        (worker,) = gate.pids("worker")
        fresh = uss_bytes(worker)
        active = random.Random(1).sample(names_of(size), size // ACTIVE_OF)
        sampled = active[:SAMPLED]
        cold_ms, warm_ms = (uvloop.run(_in_turn(gate.url, sampled, 1)) for _ in range(2))
        tell(f"{len(active):,} active customers")
        if active[SAMPLED:]:
            uvloop.run(_in_turn(gate.url, active[SAMPLED:], CONNECTIONS))
        used = uss_bytes(worker)
    return {
        "customers": size,
        "active": len(active),
        "start_s": start_s,
        "fresh_bytes": fresh,
        "used_bytes": used,
        "cold_ms": cold_ms,
        "warm_ms": warm_ms,
        "ledger_bytes": ledger_bytes,
    }


async def _in_turn(url: str, customers: Sequence[str], connections: int) -> float:
    """One request of each; the median in ms. The ledger of a busy machine may be late for one in 100."""
    body = chat_body(gates.MODEL, stream=False, line="sim: tokens=4")
    shots = [
        Shot(
            http_request(
                "/v1/chat/completions",
                body,
                {**CLIENT_HEADERS, "authorization": f"Bearer {secret_of(name)}"},
            )
        )
        for name in customers
    ]
    result = await Load(url, in_turn(shots), connections=connections).run()
    assert result.good >= len(shots) * 0.99, (result.statuses, result.endings)
    return statistics.median(result.total_s) * 1e3


def secret_of(customer_id: str) -> str:
    """The key of a customer."""
    return f"sk-cg-{customer_id}"


async def _fill(settings: Settings, socket: Path, size: int) -> int:
    """So many customers with a wallet and a key each; the bytes they take."""
    client: Any = redis.asyncio.Redis(unix_socket_path=str(socket))
    runner = CoalescingRunner(Endpoint.from_socket(socket), name="growth", timeout_s=60)
    async with runner:
        shards, store = Shards(runner), AccountStore(client)
        empty = (await client.info("memory"))["used_memory"]
        names = names_of(size)
        await fill_customers(Server(runner, client), shards, names)
        record = CustomerRecord("", 1, PLAN, tags={"region": "eu"})
        record = replace(record, terms_digest=record_terms(settings, record).digest())
        await store.customers.note_applied(plan_digests(settings))
        for at in range(0, size, _COPIES_AT_ONCE):
            run = {n: _digest(n) for n in names[at : at + _COPIES_AT_ONCE]}
            await _write(client, shards.keys, pack_customer(record), run)
        used = (await client.info("memory"))["used_memory"]
        await client.aclose()
    return int(used - empty)


async def _write(client: Any, keys: Keys, record: bytes, digests: Mapping[str, str]) -> None:
    """Records, entries of the directory and keys of these customers."""
    of_shard: dict[int, list[str]] = {}
    for name, digest in digests.items():
        of_shard.setdefault(keys.shard_of(name), []).extend((name, digest))
    stored = {
        digest: pack_key(StoredKey(digest, f"k_{name}", name, None, 1))
        for name, digest in digests.items()
    }
    async with client.pipeline(transaction=False) as pipe:
        for shard, pairs in of_shard.items():
            pipe.eval(_RECORDS, 1, keys.prefix(shard), record, PLAN, *pairs)
        pipe.hset(keys.common("keys"), mapping=stored)
        ids = {f"k_{name}": digest for name, digest in digests.items()}
        pipe.hset(keys.common("key_ids"), mapping=ids)
        await pipe.execute()


def _digest(customer_id: str) -> str:
    return hashlib.sha256(secret_of(customer_id).encode()).hexdigest()


MEASURED: Final = {"directory": directory}
"""By the name of its chart."""
