"""Links and paths: every page is reachable, every link resolves, every named file exists."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "lua" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
PATH_IN_CODE = re.compile(r"`((?:gateway|lua|loadtest|tests|config|docs|\.ci|\.github)/[\w./*-]+)`")
DOCS_PATH = re.compile(r"(?<![\w./-])docs/[\w/-]+\.md\b")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def identifier(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_every_link_of_a_page_resolves(page: Path) -> None:
    broken = []
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=identifier)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = set(PATH_IN_CODE.findall(page.read_text()))
    missing = [path for path in named if not list(ROOT.glob(path.rstrip("/")))]
    assert missing == []


def test_the_index_lists_every_page() -> None:
    index = DOCS / "README.md"
    listed = {(DOCS / target).resolve() for target in LINK.findall(index.read_text())}
    assert {page for page in DOCS.rglob("*.md") if page != index} <= listed


def test_every_page_that_the_code_names_exists() -> None:
    named = subprocess.run(
        ["git", "ls-files", "gateway", "loadtest", "lua", "config", "tests", "Makefile", ".ci"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    missing = {}
    for name in named:
        file = ROOT / name
        if file.suffix in (".py", ".lua", ".yaml", ".md", "") and file.is_file():
            text = file.read_text(errors="replace")
            gone = {path for path in DOCS_PATH.findall(text) if not (ROOT / path).is_file()}
            if gone:
                missing[name] = gone
    assert missing == {}
