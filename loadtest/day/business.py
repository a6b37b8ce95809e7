"""The company on this day: its gate, its commands, its customers' requests, and what must agree."""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import yaml
from rich.console import Console

from gateway.domain.money import parse_amount
from loadtest.day.customers import Customer

MODEL: Final = "sim-small"
AT_ONCE: Final = 32
WAIT_S: Final = 30.0


class DayFailed(Exception):
    """A step's check failed; the message says which figure."""


@dataclass(frozen=True, slots=True)
class Business:
    """What every step uses.

    config:  the gate's configuration, which the operator edits
    console_url: of the admin process
    """

    config: Path
    url: str
    console_url: str
    customers: Sequence[Customer]
    out: Console
    dice: random.Random = field(default_factory=lambda: random.Random(11))

    def run(self, *words: str, exits: int = 0) -> str:
        """Run `creditgate WORDS` as an operator would; its stdout. Raises DayFailed for another exit."""
        self.out.print(f"  $ creditgate {' '.join(words)}", style="dim", markup=False)
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", *words],
            env={**os.environ, "CREDITGATE_CONFIG": str(self.config)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != exits:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise DayFailed(f"creditgate {' '.join(words)} ended with {done.returncode}: {said}")
        return done.stdout

    def ask(self, *words: str) -> Any:
        """The JSON document of a command."""
        return orjson.loads(self.run(*words, "--json"))

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit the configuration, which the running gate takes over by itself."""
        document = yaml.safe_load(self.config.read_text())
        change(document)
        self.config.write_text(yaml.safe_dump(document, sort_keys=False))

    def load(self, requests: int, customers: Sequence[Customer] | None = None) -> Counter[int]:
        """Send so many chats of customers drawn at random; how many had which status."""
        return asyncio.run(self._load(requests, customers or self.customers))

    async def _load(self, requests: int, customers: Sequence[Customer]) -> Counter[int]:
        drawn = iter([self.dice.choice(customers) for _ in range(requests)])
        statuses: Counter[int] = Counter()
        async with httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False) as client:

            async def one_after_another() -> None:
                for customer in drawn:
                    statuses[(await _chat(client, customer.key)).status_code] += 1

            await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
        return statuses

    def chat(self, key: str) -> httpx.Response:
        """One chat."""

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False) as client:
                return await _chat(client, key)

        return asyncio.run(send())

    def until(self, holds: Callable[[], bool], what: str) -> float:
        """Wait until it holds; how long it took, in seconds. Raises DayFailed."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() - began > WAIT_S:
                raise DayFailed(f"not within {WAIT_S:.0f} s: {what}")
            time.sleep(0.1)
        return time.monotonic() - began

    def balances_nano(self) -> dict[str, int]:
        """Every account's balance, by its id: live and shadow wallets."""
        return {
            each["customer_id"]: parse_amount(each["balance"], signed=True)
            for each in self.ask("wallet", "list")
            if "balance" in each
        }

    def live_nano(self) -> int:
        """What all customers together have."""
        found = self.balances_nano()
        return sum(found.get(each.customer_id, 0) for each in self.customers)

    def charged_nano(self) -> int:
        """What live wallets were charged today in all, corrections included, by the store's report."""
        report = self.ask("report", "usage", "--by", "kind")
        return sum(
            parse_amount(row[column], signed=True)
            for row in report["lines"]
            for column in ("charged", "corrected")
        )

    def count_changes(self, action: str) -> int:
        """How many changes of this kind the audit log has, over all of its pages."""
        count, page = 0, self.ask("audit", "--since", "1d", "--action", action, "-n", "1000")
        while True:
            count += len(page["entries"])
            if page["cursor"] is None:
                return count
            page = self.ask(
                "audit", "--since", "1d", "--action", action, "-n", "1000",
                "--cursor", page["cursor"],
            )  # fmt: skip

    def verify(self) -> None:
        """Ledger, outbox and store agree to the unit."""
        self.until(self._delivered, "the outbox is empty")
        if self.ask("verify")["clean"] is not True:
            raise DayFailed("verify found a drift")

    def _delivered(self) -> bool:
        return bool(self.ask("export", "status")["undelivered_in_fullest_shard"] == 0)


async def _chat(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.post(
        "/v1/chat/completions",
        headers={"authorization": f"Bearer {key}"},
        json={
            "model": MODEL,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": "What is a good name for a cat?"}],
        },
    )


def equal(what: str, found: object, expected: object) -> None:
    """Raise DayFailed unless two figures are equal."""
    if found != expected:
        raise DayFailed(f"{what}: {found}, expected {expected}")
