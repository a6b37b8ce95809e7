"""The worked examples of docs/how-to/any-api.md: each route served by a gate, each request sent to it."""

import re
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.gate import Gate, running_gate
from tests.support.rest_api import rest_api

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "any-api.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```\n((?:- `[^\n]*\n)+)", PAGE, re.DOTALL)
LINE = re.compile(
    r"- `(\w+) (\S+)`(?: with `(.*?)`)?"
    r"(?: answered (\d+)(?: `(.*?)`)? → holds ([\d.]+), charges ([\d.]+)| → (\d+))"
)


def test_every_block_has_examples_that_are_understood() -> None:
    assert len(BLOCKS) == PAGE.count("```yaml") == 6
    lines = [line for _, examples in BLOCKS for line in examples.splitlines()]
    assert len(lines) == 15
    assert all(LINE.fullmatch(line) for line in lines)


async def ask(gate: Gate, method: str, path: str, body: str | None) -> httpx.Response:
    headers = {"authorization": gate.headers["authorization"]}
    content = body.encode() if body is not None else None
    return await gate.client.request(method, path, headers=headers, content=content)


@pytest.mark.parametrize(("route", "examples"), BLOCKS, ids=[x.split()[1] for x, _ in BLOCKS])
async def test_an_example_is_what_a_gate_holds_and_charges(
    tmp_path: Path, valkey_socket: Path, route: str, examples: str
) -> None:
    async with rest_api() as api:
        sections = {
            "models": {},
            "upstreams": {"maps": {"base_url": api.url}},
            "routes": {"sold": yaml.safe_load(route)},
        }
        async with running_gate(tmp_path, valkey_socket, api.url, **sections) as gate:
            for line in examples.splitlines():
                match = LINE.fullmatch(line)
                assert match is not None, line
                method, path, body, status, told, held, charged, refused = match.groups()
                api.status, api.json_body = int(status or 200), told
                heard = len(api.heard)
                before = await gate.settled_nano()
                answer = await ask(gate, method, path, body)
                assert answer.status_code == int(refused or status), answer.text
                assert len(api.heard) - heard == (0 if refused else 1)
                if refused:
                    continue
                assert answer.headers["x-credits-reserved"] == held, line
                await gate.settle_all()
                assert await gate.settled_nano() - before == round(float(charged) * 10**9), line
