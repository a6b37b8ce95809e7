"""Writes what is generated from `gateway/ledger/codec/layout.py`: `lua/_layout.lua`, tables of `lua/README.md`.

python -m tests.ledger.write_layout
"""

import re
from pathlib import Path

from gateway.ledger.client.scripts import lua_folder
from gateway.ledger.codec.layout import lua_source, readme_tables


def generated() -> dict[Path, str]:
    """What each file should hold."""
    readme = lua_folder() / "README.md"
    tables = readme_tables()

    def table(found: re.Match[str]) -> str:
        return f"<!-- layout {found[1]} -->\n{tables[found[1]]}\n<!-- end -->"

    text = re.sub(
        r"<!-- layout (\w+) -->\n.*?<!-- end -->", table, readme.read_text(), flags=re.DOTALL
    )
    return {lua_folder() / "_layout.lua": lua_source(), readme: text}


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
