"""docs/how-to/loadtest.md names flags and targets that there are, and says every exit code."""

import re
from pathlib import Path

import pytest
import typer.main

import gateway.cli.dev
import gateway.cli.loadtest
from gateway.cli import app
from loadtest.tester.targets import parse_target

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / name).read_text() for name in ("docs/how-to/loadtest.md", "README.md")}


def options(command: str) -> set[str]:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {word for one in found.params for word in one.opts if word.startswith("--")}


def test_every_flag_that_the_page_names_is_one() -> None:
    page = PAGES["docs/how-to/loadtest.md"].partition("## The simulated provider")[0]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert len(named) > 20
    assert named <= options("loadtest") | options("dev")


@pytest.mark.parametrize("name", PAGES)
def test_every_target_that_a_page_names_can_be_read(name: str) -> None:
    quoted = re.findall(r"--target '([^']+)'", PAGES[name])
    listed = re.findall(
        r"`([^`]*[<>]=?\d[^`]*)`", PAGES["docs/how-to/loadtest.md"].partition("| exit |")[0]
    )
    assert quoted
    for text in (*quoted, *(text for text in listed if "make" not in text)):
        parse_target(text)


def test_every_exit_code_of_a_verdict_is_told() -> None:
    told = set(re.findall(r"^\| (\d+) \|", PAGES["docs/how-to/loadtest.md"], re.MULTILINE))
    assert told == {*(str(code) for code in gateway.cli.loadtest._EXIT.values()), "2", "130"}
