"""No page, message, docstring or comment uses a word of `wording.txt`."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = [
    (re.compile(rule.replace(" ", r"\s+"), re.IGNORECASE), advice)
    for rule, advice in (
        re.split(r"\s{2,}", line.rstrip(), maxsplit=1)
        for line in (Path(__file__).with_name("wording.txt")).read_text().splitlines()
        if line and not line.startswith("#")
    )
]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "lua").glob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
SOURCES = [
    *sorted(path for room in ("gateway", "loadtest") for path in (ROOT / room).rglob("*.py")),
    *sorted((ROOT / "lua").glob("*.lua")),
    *sorted((ROOT / "config").glob("*.yaml")),
    *sorted((ROOT / ".github").rglob("*.yml")),
    ROOT / "Makefile",
    ROOT / ".ci" / "run",
    ROOT / "Dockerfile",
    ROOT / "pyproject.toml",
]
CODE = re.compile(r"```.*?```|``[^`]*``|`[^`\n]*`", re.DOTALL)
FIELD = re.compile(r"\{[^{}\n]*\}")


def prose_of_python(text: str) -> Iterator[tuple[int, str]]:
    """Comments and string literals, each with the line it starts on."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        if name in ("COMMENT", "STRING", "FSTRING_MIDDLE"):
            text = token.string
            # Before Python 3.12 an f-string is one token; the expressions in it are no prose.
            yield token.start[0], FIELD.sub("", text) if text[:2].lower() in ('f"', "f'") else text


def prose_of_lua(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        _, dashes, comment = line.partition("--")
        if dashes:
            yield number, comment


def prose(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text()
    if path.suffix == ".py":
        yield from prose_of_python(text)
    elif path.suffix == ".lua":
        yield from prose_of_lua(text)
    elif path.suffix == ".md":
        yield 1, text
    else:
        for number, line in enumerate(text.splitlines(), 1):
            yield number, line if path.suffix == ".yml" else line.partition("#")[2]


def found_in(path: Path) -> list[str]:
    """`line: word → advice` for every banned word of a file."""
    found = []
    for start, text in prose(path):
        plain = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
        for rule, advice in RULES:
            for match in rule.finditer(plain):
                line = start + plain.count("\n", 0, match.start())
                found.append(f"{line}: {' '.join(match[0].split())!r}, write: {advice}")
    return found


def identifier(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=identifier)
def test_a_file_uses_plain_words(path: Path) -> None:
    found = found_in(path)
    if found:
        pytest.fail("\n".join([f"in {identifier(path)}:", *found]))


def test_the_rules_find_words_in_comments_strings_and_text(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        '"""Told."""\nx = f"in vain {told}"  # anew, `beside`\ntold = "a" if x else "b"\n'
    )
    words = [line.partition(",")[0] for line in found_in(file)]
    assert words == ["1: 'Told'", "2: 'in vain'", "2: 'anew'"]
    page = tmp_path / "a.md"
    page.write_text("The\nwhole\nanswer, not `told`.\n")
    assert found_in(page) == ["2: 'whole answer', write: complete, full, entire"]
