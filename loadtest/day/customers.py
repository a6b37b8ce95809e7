"""The company's customers: a file as another billing system would export it, and their keys."""

import csv
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.domain.money import format_amount

NANO: Final = 1_000_000_000
_COLUMNS: Final = (
    "id",
    "plan",
    "balance",
    "category",
    "expiry",
    "key_hash",
    "key_algorithm",
    "name",
    "email",
    "external.stripe",
)
_EXPIRY: Final = "2099-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Customer:
    """One row of the file. balance_nano: 0 for one in twenty, who will be refused.

    key: in clear, as the customer has it; the file has its hash alone
    """

    customer_id: str
    plan: str
    balance_nano: int
    key: str

    @property
    def stripe_id(self) -> str:
        """The customer's id at Stripe."""
        return f"cus_{self.customer_id.removeprefix('customer-')}"


def make_customers(count: int, seed: int = 7) -> list[Customer]:
    """The same customers for the same seed."""
    random_ = random.Random(seed)
    return [
        Customer(
            customer_id=f"customer-{number:04}",
            plan="team" if number % 10 == 0 else "starter",
            balance_nano=0 if number % 20 == 19 else random_.randrange(1, 5_000) * NANO // 100,
            key=f"sk-old-{hashlib.sha256(f'{seed}:{number}'.encode()).hexdigest()[:24]}",
        )
        for number in range(count)
    ]


def write_file(path: Path, customers: Sequence[Customer]) -> None:
    """Write the file for `creditgate import`."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for each in customers:
            rows.writerow(
                (
                    each.customer_id,
                    each.plan,
                    format_amount(each.balance_nano),
                    "paid" if each.plan == "team" else "promotional",
                    "" if each.plan == "team" else _EXPIRY,
                    hashlib.sha256(each.key.encode()).hexdigest(),
                    "sha256",
                    f"Customer {each.customer_id[-4:]}",
                    f"{each.customer_id}@example.com",
                    each.stripe_id,
                )
            )
