"""Mistakes in a configuration: one `Problem` each, all of them in one `SettingsError`.

A message never shows a value from the environment, from a file, or from a field that holds a
secret.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Path of a value in the document: ("models", "gpt-x", "prices", "input")."""

_BARE = re.compile(r"[\w/@-]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. Lines and columns count from 1; `hint` says how to fix it, "" if that is
    obvious."""

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        what = f"{self.path}: {self.message}" if self.path else self.message
        return f"{where}{what}. {self.hint}".rstrip() if self.hint else f"{where}{what}."


class SettingsError(Exception):
    """The configuration cannot be used; `problems` lists every mistake in order of position."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems), key=lambda p: (p.file, p.line, p.column, p.path))
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        lines = [f"{count} {noun} in the configuration:", *(f"  {p}" for p in self.problems)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake with its path in the document, before file and line are looked up."""

    path: Path
    message: str
    hint: str = ""


class Wrong(ValueError):
    """A value is not what its field takes; raised by validators, which know no place.

    at: the field of the validated section that is meant, by its name in the file; "" for itself
    """

    def __init__(self, message: str, hint: str = "", *, at: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.at = at


def show_path(path: Path) -> str:
    """Format a path: models.gpt-x.prices.input; names with dots or spaces are quoted, list items
    are keys[0]."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if _BARE.fullmatch(step) else f'"{step}"'
            text += f".{name}" if text else name
    return text
