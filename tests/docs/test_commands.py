"""Every `creditgate` command on the pages exists, with the options that the page gives it."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gateway.cli import _GROUPS, app

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "configuration.md"),
]
SPAN = re.compile(r"`((?:\.venv/bin/)?creditgate [^`]+)`")
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
for group in _GROUPS:
    importlib.import_module(f"gateway.cli.{group}")


def commands(page: str) -> list[str]:
    """The command lines of a page, in code spans and in blocks."""
    found = SPAN.findall(page)
    for block in BLOCK.findall(page):
        joined = block.replace("\\\n", " ")
        for line in joined.splitlines():
            start = line.removeprefix("$ ").strip()
            if re.match(r"(\.venv/bin/)?creditgate ", start):
                found.append(start)
    return found


def problem(line: str) -> str | None:
    """What is wrong with a command line."""
    words = shlex.split(line.replace("…", " "), comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        found = command.commands.get(words[0])
        if found is None:
            return f"there is no command {words[0]!r}"
        command = found
        words = words[1:]
    known = {option for each in command.params for option in each.opts} | {"--help"}
    given = {word.partition("=")[0].strip("[]") for word in words if re.match(r"\[?--[a-z]", word)}
    unknown = sorted(given - known)
    return f"no option {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_on_a_page_exists(page: Path) -> None:
    found = commands(page.read_text())
    wrong = {line: said for line in found if (said := problem(line))}
    assert wrong == {}


def test_commands_are_found() -> None:
    found = [line for page in PAGES for line in commands(page.read_text())]
    assert len(found) > 40
    assert problem("creditgate nothing") == "there is no command 'nothing'"
    assert problem("creditgate wallet show acme --nothing") == "no option --nothing"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_block_to_paste_has_no_placeholder_that_a_shell_would_take_as_it_is(page: Path) -> None:
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            command = line.partition(" #")[0]
            assert "…" not in command, f"{page.name}: {line}"


def test_what_serves_until_it_is_stopped_ends_its_block() -> None:
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            lines = [line for line in block.splitlines() if line.strip()]
            for line in lines[:-1]:
                assert not re.match(r"\S*creditgate (serve|dev)\b|make run", line), (
                    f"{page.name}: {line}"
                )
