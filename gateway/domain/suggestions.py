"""Hints for names that are not known."""

import difflib
from collections.abc import Iterable
from typing import Final

_ENOUGH_NAMES: Final = 12


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, else the known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    if not names:
        return "None is defined."
    more = ", …" if len(names) > _ENOUGH_NAMES else ""
    return f"Known: {', '.join(names[:_ENOUGH_NAMES])}{more}."
