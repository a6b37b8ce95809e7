"""Writes what is generated from `gateway/ledger/codec/layout.py`: `lua/_layout.lua`, tables of `lua/README.md`.

python -m tests.ledger.write_layout
"""

import re
import struct
from pathlib import Path
from typing import Final

from gateway.ledger.client.scripts import lua_folder
from gateway.ledger.codec.layout import (
    ACCOUNT,
    ALL,
    ALLOCATION,
    ALLOWANCE,
    CREDITED,
    ENDED,
    GRANT,
    HELD_LIMIT,
    HOLD,
    MARK,
    PERIOD,
    RING,
    SLOTS,
    UNIT,
    Layout,
)

_HOLD_SECTIONS: Final = (
    ("allocations", ""),
    ("limits", f"{ALLOCATION.size} * h[H_ALLOCATIONS]"),
    ("marks", f"{HELD_LIMIT.size} * h[H_LIMITS]"),
    ("estimate", f"{MARK.size} * h[H_TIERED]"),
    ("checkpoint", f"{UNIT.size} * h[H_UNITS]"),
    ("rows", f"{UNIT.size} * h[H_UNITS]"),
    ("costs", "h[H_ROWS]"),
    ("ids", "h[H_COSTS]"),
    ("facts", "h[H_IDS]"),
)
"""Sections of a pending reservation, in order, and the size of what lies before each since the last."""
_ENDED_SECTIONS: Final = (
    ("allocations", ""),
    ("limits", f"{ALLOCATION.size} * e[E_ALLOCATIONS]"),
    ("marks", f"{HELD_LIMIT.size} * e[E_LIMITS]"),
    ("usage", f"{MARK.size} * e[E_TIERED] + (e[E_TIERED] > 0 and {CREDITED.size} or 0)"),
)
"""Those of a tombstone; what was credited stands behind the marks, if there are any."""


def lua_source() -> str:
    """The text of `lua/_layout.lua`."""
    blocks = [
        "-- Generated from gateway/ledger/codec/layout.py by `python -m tests.ledger.write_layout`; do not edit.\n"
        "-- Indices of the records' fields, sizes and positions in bytes, and where the sections of a record begin."
    ]
    for layout in ALL:
        lines = [f"-- {layout.title}."]
        named = [each for each in layout.fields if each.lua]
        numbers = {each.lua: layout.base + at for at, each in enumerate(layout.fields) if each.lua}
        for start in range(0, len(named), 6):
            part = [each.lua for each in named[start : start + 6]]
            lines.append(
                f"local {', '.join(part)} = {', '.join(str(numbers[name]) for name in part)}"
            )
        form = layout.codes if layout.base == 0 else "<" + layout.codes
        if layout is not RING:
            lines.append(f"local {layout.name} = '{form}'")
        lines.append(f"local {layout.name}_SIZE = {layout.size}")
        blocks.append("\n".join(lines))
    positions = {
        f"POSITION_OF_{name.upper()}": ACCOUNT.position(name)
        for name in ("overdraft", "held", "sweep_at", "growth_wanted")
    }
    positions |= {
        f"POSITION_OF_FIRST_{name.upper()}": ACCOUNT.size + GRANT.position(name)
        for name in ("remaining", "held")
    }
    blocks.append(
        "\n".join(
            [
                "-- First bytes of fields of an account record, and of its first grant.",
                *(f"local {name} = {number}" for name, number in positions.items()),
            ]
        )
    )
    blocks.append(f"local HEADER = {len(ACCOUNT.fields)} -- fields of an account before its grants")
    blocks.append(_account_sections())
    blocks += _accessors("offset_of_", "h", HOLD, _HOLD_SECTIONS)
    blocks += _accessors("ended_offset_of_", "e", ENDED, _ENDED_SECTIONS)
    return "\n\n".join(blocks) + "\n"


def _account_sections() -> str:
    """Accessors of the account's sections: the index of the first field of each."""
    terms, accessors = "HEADER + 1", []
    sections = (
        ("period", "N_GRANTS", GRANT),
        ("allowance", "N_PERIODS", PERIOD),
        ("signal", "N_ALLOWANCES", ALLOWANCE),
    )
    for name, count, layout in sections:
        terms += f" + {len(layout.fields)} * a[{count}]"
        accessors.append(f"local function first_{name}(a)\n  return {terms}\nend")
    return "\n\n".join(accessors)


def _accessors(
    prefix: str, letter: str, header: Layout, sections: tuple[tuple[str, str], ...]
) -> list[str]:
    """Accessors of a record's sections: the first byte of each, from the unpacked header."""
    terms, blocks = str(header.size + 1), []
    for name, before in sections:
        terms += f" + {before}" if before else ""
        blocks.append(f"local function {prefix}{name}({letter})\n  return {terms}\nend")
    return blocks


def readme_tables() -> dict[str, str]:
    """For `lua/README.md`: a table for each layout, by its name."""
    return {layout.name: _table(layout) for layout in ALL}


def _table(layout: Layout) -> str:
    rows, at = (
        [
            f"**{layout.title}**, {layout.size} bytes",
            "",
            "| byte | type | field | |",
            "|---|---|---|---|",
        ],
        0,
    )
    shown = layout.fields if layout is not RING else layout.fields[:6]
    for each in shown:
        rows.append(f"| {at} | {each.code} | {each.name} | {each.meaning} |")
        at += struct.calcsize("<" + each.code)
    if layout is RING:
        rows.append(
            f"| … | d | used and held of the other slots | {SLOTS} in all, the last one first |"
        )
    return "\n".join(rows)


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
