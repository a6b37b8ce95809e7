"""The worked examples of docs/reference/prices.md, on the real scripts: each price is read by the
configuration's own section, each list of requests reserved and settled in turn."""

import re
from pathlib import Path

import pytest
import redis.asyncio
import yaml

from gateway.domain.money import format_amount
from gateway.domain.reservation import Hold
from gateway.domain.usage import in_tier
from gateway.settings.prices import PricesSection
from tests.ledger.bench import Bench

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "prices.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```\n((?:- [^\n]* → [^\n]*\n)+)", PAGE, re.DOTALL)
LINE = re.compile(r"- (?:(\w+) )?input ([\d, ]+) → ([-\d., ]+)\n")
EXAMPLES = [(price, *line) for price, lines in BLOCKS for line in LINE.findall(lines)]


def test_every_price_on_the_page_has_an_example() -> None:
    assert len(BLOCKS) == PAGE.count("```yaml") == 9
    assert len(EXAMPLES) == PAGE.count(" → ") == 11


@pytest.mark.parametrize(("price", "tier", "quantities", "charges"), EXAMPLES)
async def test_a_worked_example_is_what_the_scripts_charge(
    valkey: redis.asyncio.Redis, price: str, tier: str, quantities: str, charges: str
) -> None:
    document = yaml.load(price, yaml.BaseLoader)
    table = PricesSection.model_validate(document).price(None, counter="m").table()
    bench = Bench(valkey)
    await bench.ledger.account("acme", account_rev=1)
    await bench.ledger.grant("acme", "g1", 100 * 10**9)
    told = []
    before = 0
    for number, quantity in enumerate(quantities.split(", ")):
        vector = table.vector({in_tier("input", tier or "default"): int(quantity)})
        hold = await bench.ledger.reserve(
            bench.account, f"r{number}", table, vector, vector, bench.facts, tokens=1, ttl_ms=60_000
        )
        assert isinstance(hold, Hold), hold
        await bench.ledger.settle(
            bench.account,
            f"r{number}",
            table,
            vector,
            bench.facts,
            tokens=1,
            reserved_at_ms=hold.reserved_at_ms,
        )
        wallet = await bench.wallet()
        net = wallet.settled_nano - wallet.adjusted_nano
        told.append(format_amount(net - before))
        before = net
    assert told == charges.split(", ")
