"""What a contender is, and the gate as one, with each policy: replicas on one Redis.

A budget is a wallet with as many nano-credits as it has tokens; a token of input or output costs one.
"""

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import redis
import redis.asyncio
import uvloop

from gateway.domain.money import format_amount
from gateway.ledger.accounts import AccountStore
from gateway.ledger.codec.wallet_records import Wallet
from loadtest import gate as gates
from loadtest.accuracy.scenario import WARM, Scenario, key_of

RICH_TOKENS: Final = 10**12
"""The warming tenant's budget."""

TEMPLATE_TOKENS: Final = 4
"""What the model's template adds to a message, as its operator knows it; hardcap assumes as much."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What a tenant was charged, in tokens, and what is still held."""

    charged: int
    held: int


@dataclass(frozen=True, slots=True)
class Replicas:
    """Running replicas of one contender.

    pids:     by part: "gate" serves, "other" is what belongs to it (supervisor, exporter)
    charges:  the tenants' charges at this moment
    charges:  the tenants' charges at this moment
    request:  the request of a tenant for an answer of so many tokens, on the wire
    """

    urls: Sequence[str]
    pids: Callable[[], Mapping[str, list[int]]]
    charges: Callable[[], Mapping[str, Charge]]
    request: Callable[[Scenario, str, int], bytes] = Scenario.request


@dataclass(frozen=True, slots=True)
class Contender:
    """A gate and how it is configured.

    ours:      whether the targets judge it
    peer:      whether the targets compare with it
    running:   its replicas, for a provider's URL and a Valkey's socket, in a folder
    verify:    says of a stopped contender what is wrong with its books; empty is nothing
    """

    name: str
    about: str
    ours: bool
    running: Callable[[Scenario, str, Path, Path], AbstractContextManager[Replicas]]
    verify: Callable[[Path], list[str]] = field(default=lambda _folder: [])
    peer: bool = False


# -- ours


def ours(name: str, about: str, policy: Mapping[str, Any]) -> Contender:
    """creditgate with this policy."""

    @contextlib.contextmanager
    def running(scenario: Scenario, url: str, socket: Path, folder: Path) -> Iterator[Replicas]:
        with contextlib.ExitStack() as stack:
            running = []
            for number in range(scenario.replicas):
                home = folder / f"gate-{number}"
                home.mkdir()
                config = _our_config(scenario, url, socket, folder, home, policy)
                running.append(stack.enter_context(gates.serving(config)))

            def pids() -> dict[str, list[int]]:
                found = [gate.processes() for gate in running]
                workers = [pid for one in found for name, pid in one.items() if "worker" in name]
                every = [pid for one in found for pid in one.values()]
                return {"gate": workers, "other": [pid for pid in every if pid not in workers]}

            yield Replicas(
                [gate.url for gate in running], pids, lambda: _our_charges(scenario, socket)
            )

    return Contender(name, about, True, running, _verify)


def _our_config(
    scenario: Scenario, url: str, socket: Path, folder: Path, home: Path, policy: Mapping[str, Any]
) -> Path:
    budgets = {**dict.fromkeys(scenario.names, scenario.budget), WARM: RICH_TOKENS}
    customers = {
        tenant: {
            "grants": [{"name": "budget", "amount": format_amount(tokens), "category": "paid"}],
            "keys": [{"id": tenant, "sha256": hashlib.sha256(key_of(tenant).encode()).hexdigest()}],
        }
        for tenant, tokens in budgets.items()
    }
    model = {
        "upstream": "sim",
        "prices": {"input": "0.001", "output": "0.001"},
        "max_output_tokens": 16_384,
    }
    return gates.write_config(
        home,
        url,
        redis_url=f"unix://{socket}",
        policy={**policy, "template_overhead_tokens": TEMPLATE_TOKENS},
        changes={
            "customers": customers,
            "models": {gates.MODEL: model},
            "export": {
                "required": "own",
                "sinks": {"own": {"sqlite": {"path": str(folder / "events.db")}}},
            },
        },
    )


def _our_charges(scenario: Scenario, socket: Path) -> dict[str, Charge]:
    async def read() -> dict[str, Wallet]:
        client = redis.asyncio.Redis(unix_socket_path=str(socket))
        try:
            return await AccountStore(client).wallets.read(scenario.names)
        finally:
            await client.aclose()

    wallets = uvloop.run(read())
    return {name: Charge(w.settled_nano, w.held_nano) for name, w in wallets.items()}


def _verify(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "gateway.cli", "verify"]
    done = subprocess.run(
        [*command, "--config", str(folder / "gate-0" / "gate.yaml"), "--json"],
        capture_output=True,
        text=True,
    )
    if not done.stdout:
        return [f"verify failed: {done.stderr[-500:]}"]
    document = orjson.loads(done.stdout)
    return [] if done.returncode == 0 else [str(drift) for drift in document["drifts"]]


OURS: Final = (
    ours("strict", "holds the largest possible charge", {"preset": "strict"}),
    ours("balanced", "holds what is expected, and grows", {"preset": "balanced"}),
    ours("clamp", "lowers the output maximum to what is left", {"preset": "strict", "clamp": True}),
    ours("generous", "finishes into overdraft", {"preset": "generous"}),
)
