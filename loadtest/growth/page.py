"""Puts the tables of the reports into the pages of the documentation, so that nobody copies figures.

    python -m loadtest.growth.page

In a page, the lines `<!-- NAME -->` and `<!-- /NAME -->` enclose a table, which is replaced from
`reports/growth/NAME.json`. Without that report the table stays as it is.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

PAGES: Final = (Path("docs/explanation/growth.md"), Path("docs/explanation/scale.md"))
BLOCK: Final = re.compile(r"(<!-- ([a-z]+) -->\n)(.*?)(<!-- /\2 -->\n)", re.DOTALL)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A table as reports keep it."""
    assert all(len(row) == len(columns) for row in rows), "a cell for each column"
    return {"columns": list(columns), "rows": [list(row) for row in rows]}


def markdown(of: dict[str, Any]) -> str:
    """A report's table in Markdown."""
    lines = [of["columns"], ["---"] * len(of["columns"]), *of["rows"]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def read(text: str, name: str) -> list[list[str]]:
    """The rows of a page's table, its head left out."""
    (body,) = (found[3] for found in BLOCK.finditer(text) if found[2] == name)
    rows = [line.strip("| ").split(" | ") for line in body.splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def fill(text: str, reports: Path) -> str:
    """The page with every table of which there is a report."""

    def one(found: re.Match[str]) -> str:
        file = reports / f"{found[2]}.json"
        if not file.exists():
            return found[0]
        return found[1] + markdown(orjson.loads(file.read_bytes())["table"]) + found[4]

    return BLOCK.sub(one, text)


def main() -> None:
    """Entry point of `python -m loadtest.growth.page`."""
    parser = argparse.ArgumentParser(prog="loadtest.growth.page", description="Fill the pages.")
    parser.add_argument("--reports", type=Path, default=Path("reports/growth"))
    arguments = parser.parse_args()
    for page in PAGES:
        page.write_text(fill(page.read_text(), arguments.reports))


if __name__ == "__main__":
    main()
