"""The worked examples of docs/reference/limits.md, on the real scripts: the limits are read by the
configuration's own section, and each line of a table happens at its time."""

import datetime as dt
import json
import re
from pathlib import Path

import pytest
import redis.asyncio
import yaml

from gateway.domain.money import format_amount, parse_amount
from gateway.domain.reservation import Account, Denied
from gateway.domain.standing import count_of, describe
from gateway.flow.denials import refused_by_ledger
from gateway.settings.customers import LimitSection
from tests.ledger.bench import Bench

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "limits.md").read_text()
EXAMPLES = re.findall(
    r"```yaml\n([^`]*)```\n\| at \| what \| answer \|\n\|---\|---\|---\|\n((?:\|[^\n]*\n)+)",
    PAGE,
)


def test_every_limit_on_the_page_has_an_example() -> None:
    assert len(EXAMPLES) == PAGE.count("```yaml") == 7
    told = "".join(limits for limits, _ in EXAMPLES)
    for measure in ("spend", "requests", "tokens", "concurrent"):
        assert f"measure: {measure}" in told


@pytest.mark.parametrize(("limits", "table"), EXAMPLES)
async def test_a_worked_example_is_what_the_scripts_answer(
    valkey: redis.asyncio.Redis, limits: str, table: str
) -> None:
    sections = [LimitSection.model_validate(each) for each in yaml.load(limits, yaml.BaseLoader)]
    compiled = [limit for section in sections for limit in section.compiled()]
    bench = await Bench(valkey).open(1000 * 10**9)
    bench.account = Account("acme", "k1", 0, 1, "team", limits=tuple(compiled))
    spends = any(limit.measure == "spend" for limit in compiled)
    for line in table.splitlines():
        at, what, answer = (cell.strip() for cell in line.strip("|").split("|"))
        bench.now = moment_ms(at)
        said = await happen(bench, what, spends=spends)
        assert said == answer.replace(" by key", "").replace(" by customer", ""), line
        if " by " in answer:
            denied = await bench.denied("z", int(what.split()[2]))
            assert denied.limit is not None
            assert f" by {denied.limit.scope}," in answer


def moment_ms(at: str) -> int:
    text = at if "-" in at else f"2026-01-01 {at}"
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp() * 1000)


async def happen(bench: Bench, what: str, *, spends: bool) -> str:
    """`a asks 5 of large`, `a settles 3`: credits where the limits count those, else units."""
    rid, verb, number, *model = what.replace(" of ", " ").split()
    units = parse_amount(number) if spends else int(number)
    if verb == "settles":
        await bench.settle(rid, units)
        return ""
    answer = await bench.reserve(rid, units, model=model[0] if model else None)
    if not isinstance(answer, Denied):
        return "held"
    wait = answer.retry_after_ms
    left = format_amount(answer.limit_left) if spends else answer.limit_left
    when = "never" if wait is None else f"in {wait / 1000:.10g} s" if wait else "when others end"
    return f"refused, {left} left, {when}"


def test_the_metadata_on_the_page_is_what_a_refusal_says() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    limit = LimitSection.model_validate(
        {"scope": "key", "measure": "requests", "window": "minute", "ceiling": "3"}
    ).compiled()[0]
    denied = Denied(
        "rate_limit", 2_100_000, 41_200_000_000, 41_200_000_000, limit, 0, 45_000, limit_of="k_lab"
    )
    refused = refused_by_ledger(denied, insufficient_status=402)
    assert refused.detail == json.loads(shown)
    assert describe(limit, "k_lab")["ceiling"] == count_of(limit, 3) == 3
