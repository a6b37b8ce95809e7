"""A complete gate inside the test's process: real settings, ledger, sockets, flow; no supervisor.

`async with running_gate(tmp_path, valkey_socket, sim.url) as gate:` serves on a free port. It writes
the accounts, as the supervisor would; `tests/support/delivering.py` adds the exporter.
"""

import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import yaml

from gateway.app.gate import Gate as Service
from gateway.app.gate import build_gate
from gateway.app.roles import Resources
from gateway.app.sync import sync_accounts
from gateway.domain.delivery import START, DeadLetter, Place
from gateway.domain.events import Event
from gateway.flow.reservation.live import LiveReservations
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.outbox import Outbox
from gateway.settings import Settings, load_settings
from tests.support.loose_ledger import LooseLedger
from tests.support.outbox_entries import read_entries

KEY = "sk-test-customer"
BROKE_KEY = "sk-test-broke"
SHARDS = 4
# httpx reads the system's certificates for each client (40 ms), also for plain HTTP.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def digest(key: str) -> str:
    """The form of a key in the configuration."""
    return hashlib.sha256(key.encode()).hexdigest()


def gate_config(sim_url: str, data_dir: Path, ledger_url: str, **changes: Any) -> dict[str, Any]:
    """A small configuration on the simulated provider; `changes` replace whole sections."""
    model = {
        "upstream": "sim",
        "prices": {"input": "1.00", "cache_read": "0.10", "output": "4.00"},
        "max_output_tokens": 4096,
    }
    return {
        "listen": {"port": 0, "workers": 1},
        "admin": {"port": 0},
        "console": {"enabled": False},
        "data_dir": str(data_dir),
        "redis": {"url": ledger_url, "shards": SHARDS},
        "upstreams": {
            "sim": {
                "base_url": sim_url,
                # Long: a busy machine can stand still for seconds.
                "timeouts": {"connect_ms": 20_000, "head_ms": 20_000, "between_bytes_ms": 20_000},
            }
        },
        "models": {
            "small": model,
            "dear": {**model, "prices": {"input": "1000.00", "output": "4000.00"}},
        },
        "customers": {
            "acme": {
                "grants": [{"name": "start", "amount": "10.00", "category": "paid"}],
                "keys": [{"id": "k_acme", "sha256": digest(KEY)}],
            },
            "broke": {"keys": [{"id": "k_broke", "sha256": digest(BROKE_KEY)}]},
        },
        **changes,
    }


@dataclass(slots=True)
class Gate:
    """A running gate with helpers that send requests and read its ledger."""

    url: str
    service: Service
    settings: Settings
    store: AccountStore
    ledger: LooseLedger
    outbox: Outbox
    runner: RedisRunner
    client: httpx.AsyncClient
    headers: dict[str, str] = field(
        default_factory=lambda: {
            "authorization": f"Bearer {KEY}",
            "content-type": "application/json",
        }
    )

    @property
    def live(self) -> LiveReservations:
        """The reservations of requests that run now."""
        return self.service.live

    async def chat(self, content: str = "Hello", **fields: Any) -> httpx.Response:
        """One chat completion; the simulator obeys a last line such as `sim: tokens=5`."""
        body = {"model": "small", "messages": [{"role": "user", "content": content}], **fields}
        return await self.post("/v1/chat/completions", body)

    async def post(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """POST JSON with the customer's key."""
        return await self.client.post(path, json=body, headers={**self.headers, **(headers or {})})

    async def events(self, customer_id: str = "acme") -> list[Event]:
        """The customer's usage events so far, oldest first, read from the outbox."""
        after = dict.fromkeys(range(SHARDS), START)
        entries = []
        while tails := await read_entries(self.outbox, after, limit=100_000):
            for shard, page in tails:
                entries += page
                after[shard] = Place(page[-1].epoch, page[-1].seq)
        assert not [entry for entry in entries if isinstance(entry, DeadLetter)]
        return [
            entry
            for entry in entries
            if isinstance(entry, Event)
            and entry.customer_id == customer_id
            and entry.reservation_id is not None
        ]

    def ledger_at(self, now_ms: int) -> LooseLedger:
        """The same ledger by another clock."""
        return LooseLedger(self.runner, shard_count=SHARDS, clock_ms=lambda: now_ms)

    async def settle_all(self) -> None:
        """Wait until every pending settlement has reached the ledger."""
        await self.service.delivery.drain(grace_s=10.0)

    async def one_event(self, customer_id: str = "acme") -> Event:
        """The customer's only event, after everything has settled."""
        await self.settle_all()
        [event] = await self.events(customer_id)
        return event

    async def held_nano(self, customer_id: str = "acme") -> int:
        """What the customer's wallet holds now."""
        return (await self.store.wallets.read([customer_id]))[customer_id].held_nano

    async def settled_nano(self, customer_id: str = "acme") -> int:
        """What the customer's wallet has been charged in all."""
        return (await self.store.wallets.read([customer_id]))[customer_id].settled_nano


@asynccontextmanager
async def running_gate(
    tmp_path: Path, valkey_socket: Path, sim_url: str, **changes: Any
) -> AsyncIterator[Gate]:
    """Serve a gate on a free port; drained and closed at the end.

    `empty=False` leaves in the ledger what is there; `ledger_url` replaces the socket;
    `ledger_timeout_s` bounds each ledger command: long, because a busy machine can stand still for
    more than the second that a gate allows, and its 503 makes SDKs retry. Other `changes` replace
    whole sections.
    """
    empty = changes.pop("empty", True)
    ledger_timeout_s = changes.pop("ledger_timeout_s", 20.0)
    ledger_url = changes.pop("ledger_url", f"unix://{valkey_socket}")
    file = tmp_path / "gateway.yaml"
    config = gate_config(sim_url, tmp_path / "data", ledger_url, **changes)
    file.write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
    settings = load_settings(file)
    redis_client = Endpoint.from_url(ledger_url).client(name="test")
    if empty:
        await redis_client.flushall()
    store = AccountStore(redis_client, shard_count=SHARDS)
    runner = RedisRunner(redis_client)
    ledger = LooseLedger(runner, shard_count=SHARDS)
    await sync_accounts(settings, ledger.wallets, store)
    defaults = CoalescingRunner.__init__.__kwdefaults__
    with mock.patch.dict(defaults, timeout_s=ledger_timeout_s):
        resources = Resources(ledger_url, str(tmp_path / "data"), "worker-0")
        service = await build_gate(settings, resources)
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    await service.start(sock)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30, verify=PLAIN) as client:
            yield Gate(
                url, service, settings, store, ledger, Outbox(redis_client, SHARDS), runner, client
            )
    finally:
        await service.drain(5.0)
        await redis_client.aclose()


Serve = Callable[..., AbstractAsyncContextManager[Gate]]
"""`running_gate` for one test's folder, ledger and provider: see the fixture `serve`."""
