"""The list of mutants that may survive, each with the reason: `survivors.txt`.

    FILE: the line as it stands
      -> the line of a mutant        (and further ones, of further lines, for the same reason)
      -> the second of two mutants that read alike [2]
      because why no test can tell it from the original

What stands before the first entry is prose. An entry without a reason is an error.
"""

import re
from collections.abc import Iterable
from pathlib import Path

Name = tuple[str, str, str, int]
LIST = Path(__file__).with_name("survivors.txt")
_HEAD = re.compile(r"(\w+\.lua): (.+)")
_MUTANT = re.compile(r"  -> (.*?)(?: \[(\d+)\])?")
_REASON = re.compile(r"  because (.+)")


def read_list(text: str) -> dict[Name, str]:
    """Reason by a mutant's name. Raises ValueError, with the number of the line."""
    reasons: dict[Name, str] = {}
    head: tuple[str, str] | None = None
    waiting: list[Name] = []
    for number, line in enumerate(text.splitlines(), 1):
        if found := _HEAD.fullmatch(line):
            head = found[1], found[2]
        elif head and (found := _MUTANT.fullmatch(line)):
            waiting.append((*head, found[1], int(found[2] or 1)))
        elif waiting and (found := _REASON.fullmatch(line)):
            reasons.update(dict.fromkeys(waiting, found[1]))
            waiting = []
        elif head and line and not line.startswith("#"):
            raise ValueError(f"line {number}: not an entry's line: {line!r}")
    if waiting:
        raise ValueError("the last entry gives no reason")
    return reasons


def entries(names: Iterable[Name]) -> str:
    """As they would stand in the list, reasons still to be found."""
    lines, head = [], ("", "")
    for file, before, after, nth in names:
        if (file, before) != head:
            head = file, before
            lines.append(f"{file}: {before}")
        lines.append(f"  -> {after}" + (f" [{nth}]" if nth > 1 else ""))
    return "\n".join(lines)
