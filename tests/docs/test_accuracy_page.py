"""docs/explanation/accuracy.md says what is measured: its numbers are those of the scenario and the targets."""

import re
from pathlib import Path

from gateway.dialects.base import ReadOptions
from gateway.dialects.openai.chat import OpenAIChat
from loadtest.accuracy.peers import contenders
from loadtest.accuracy.report import TARGETS
from loadtest.accuracy.scenario import INPUT_TOKENS, PROMPT, Scenario

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "accuracy.md").read_text()


def numbers(line: str) -> list[float]:
    """The numbers of the table's line that begins so."""
    [row] = re.findall(rf"^\| {re.escape(line)} \| (.*) \|$", PAGE, re.MULTILINE)
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,.]*\b", row)]


def test_the_page_describes_the_scenario_that_is_run() -> None:
    scenario = Scenario()
    assert numbers("tenants") == [scenario.tenants]
    assert numbers("callers of a tenant")[0] == scenario.streams
    assert numbers("replicas")[0] == scenario.replicas
    assert numbers("budget of a tenant") == [scenario.budget]
    assert numbers("`max_tokens` of a request") == [scenario.max_tokens]
    assert numbers("length of an answer") == [scenario.median, scenario.sigma]
    assert numbers("pace of an answer") == [scenario.ttft_ms, scenario.itl_ms]
    assert f"{scenario.warm_requests} requests of another tenant" in PAGE
    assert len(PROMPT) // 4 + 4 + 3 == INPUT_TOKENS
    assert f"Input counts {INPUT_TOKENS} tokens" in PAGE
    body = scenario.request("tenant-0", 100).partition(b"\r\n\r\n")[2]
    held = OpenAIChat().read_request(body, ReadOptions()).input_bound
    assert f"{held} tokens here" in PAGE


def test_the_page_states_the_targets_that_judge() -> None:
    limits = {target.name: target.limit for target in TARGETS}
    budget = Scenario().budget
    assert limits["served over, %"] / 100 * budget == 10
    assert f"{limits['served over, %']:g} % of 20,000 are 10 tokens" in PAGE
    assert limits["usable, %"] / 100 * budget == 19_900
    assert f"{limits['usable, %']:g} % of\n  20,000 are 19,900" in PAGE
    assert f"at most {limits['cut mean']:g} stream cut" in PAGE
    assert f"at most {limits['time, s']:g} times hardcap's time" in PAGE


def test_the_page_names_every_contender() -> None:
    names = [contender.name for contender in contenders(Path("python"), Path("python"))]
    section = PAGE.partition("## Contenders")[2].partition("\n## ")[0]
    assert re.findall(r"^\| ([a-z0-9 ]+) \|", section, re.MULTILINE)[1:] == names
