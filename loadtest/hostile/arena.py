"""The gate under attack: one worker, an embedded ledger, a simulated provider, customers of every kind."""

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
import psutil

from gateway.exporter.sinks.sqlite_schema import migrate
from loadtest import children, gate
from loadtest.hostile.stray import stray_upstream
from loadtest.hostile.wire import Address
from loadtest.ports import free_ports

FUNDED: Final = "sk-funded"
HONEST: Final = "sk-honest"
BROKE: Final = "sk-broke"

MODEL: Final = gate.MODEL
NARROW: Final = "sim-narrow"
"""A model behind few connections."""
STRAY: Final = "sim-stray"
"""A model whose upstream sends bytes behind its answers."""
NARROW_CONNECTIONS: Final = 20

FILES: Final = 1024
"""File descriptors of the gate's processes, soft and hard: so few are soon used up."""
_FREE_PATH: Final = "/v1/messages/count_tokens"


@dataclass(frozen=True, slots=True)
class Arena:
    """A running gate, and where to hit it.

    admin:    address of the admin side
    narrow:   address of the simulated provider behind few connections
    worker:   pid of the one worker
    """

    address: Address
    admin: Address
    narrow: Address
    worker: int

    def memory_bytes(self) -> int:
        """Memory that the worker has for itself."""
        return int(psutil.Process(self.worker).memory_full_info().uss)

    def narrow_connections(self) -> int:
        """Connections between the worker and the provider behind few of them."""
        found = psutil.Process(self.worker).net_connections("tcp")
        return sum(bool(each.raddr) and each.raddr[1] == self.narrow[1] for each in found)


def _customer(key: str, amount: str | None) -> dict[str, Any]:
    digest = hashlib.sha256(key.encode()).hexdigest()
    customer: dict[str, Any] = {"keys": [{"id": f"k-{key}", "sha256": digest}]}
    if amount is not None:
        customer["grants"] = [{"name": "load", "amount": amount, "category": "paid"}]
    return customer


def _model(upstream: str) -> dict[str, Any]:
    return {
        "upstream": upstream,
        "upstream_model": MODEL,
        "prices": {"input": "0.50", "output": "2.00"},
        "max_output_tokens": 16_384,
    }


def _changes(provider_url: str, narrow_url: str, stray_url: str, admin_port: int) -> dict[str, Any]:
    return {
        "admin": {"host": "127.0.0.1", "port": admin_port},
        "upstreams": {
            "sim": {"base_url": provider_url, "max_connections": 400},
            "narrow": {"base_url": narrow_url, "max_connections": NARROW_CONNECTIONS},
            "stray": {"base_url": stray_url, "max_connections": 8, "pool": "per_customer"},
        },
        "models": {MODEL: _model("sim"), NARROW: _model("narrow"), STRAY: _model("stray")},
        "customers": {
            "funded": _customer(FUNDED, "9000.00"),
            "honest": _customer(HONEST, "9000.00"),
            "broke": _customer(BROKE, None),
        },
        "routes": {
            "chat": {"path": "/v1/chat/completions", "dialect": "openai_chat"},
            "count": {"path": _FREE_PATH, "dialect": "anthropic_count_tokens", "free": True},
        },
    }


def fill_store(path: Path, events: int) -> None:
    """Give the funded customer a busy day: events of a shard that the gate does not have."""
    path.parent.mkdir(mode=0o700)
    now_ms = time.time_ns() // 1_000_000
    midnight_ms = now_ms - now_ms % 86_400_000
    step = max(1, (now_ms - midnight_ms) // max(1, events))
    facts = orjson.dumps({"model": MODEL, "padding": "x" * 400}).decode()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as store:
        migrate(store)
        store.execute("BEGIN")
        store.executemany(
            "INSERT INTO events (event_id, shard, epoch, seq, kind, occurred_at_ms, stored_at_ms,"
            " customer_id, amount_nano, estimated_amount_nano, balance_nano, usage, allocations,"
            " facts) VALUES (?, 999, 1, ?, 'settle', ?, 0, 'funded', 1000, 0, 0, '{}', '[]', ?)",
            (
                (f"old-{number}:settled", number, midnight_ms + number * step, facts)
                for number in range(events)
            ),
        )
        store.execute("COMMIT")


@contextlib.contextmanager
def arena(folder: Path, *, day_events: int = 0) -> Iterator[Arena]:
    """Start everything; stop it when the block ends. Raises GateFailed.

    day_events: that the funded customer already has today
    """
    with (
        children.provider() as provider,
        children.provider() as narrow,
        stray_upstream() as stray_url,
    ):
        [admin_port] = free_ports(1)
        changes = _changes(provider.url, narrow.url, stray_url, admin_port)
        config = gate.write_config(folder, provider.url, changes=changes)
        if day_events:
            fill_store(folder / "data" / "events.db", day_events)
        command = ("sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh", *gate.GATE_COMMAND)
        with gate.serving(config, command=command) as running:
            [worker] = running.pids("worker")
            yield Arena(
                _address(running.url), ("127.0.0.1", admin_port), _address(narrow.url), worker
            )


def _address(url: str) -> Address:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
