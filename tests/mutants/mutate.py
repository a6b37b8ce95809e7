"""Mutants of the scripts: each is the folder `lua/` with one place changed.

Every write is dropped (a call for its effect, an assignment, each pair of a multiple one, each key
of an MSET), every comparison flipped (the bound moved by one, and negated), every number made one
more and one less, `and`, `or`, `+`, `-`, `true`, `false` swapped, every `not` taken away.

A mutant is called by its line before and after, not by a number: so the list of survivors stays
true while other lines move.
"""

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from tests.mutants.reach import Reach
from tests.mutants.tokens import BINARY, Statement, Token, expressions, statements_of, tokens_of

SWAPS: Mapping[str, tuple[str, ...]] = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("~=",),
    "~=": ("==",),
    "and": ("or",),
    "or": ("and",),
    "+": ("-",),
    "-": ("+",),
    "true": ("false",),
    "false": ("true",),
}
_UNARY_BEFORE = frozenset({"(", "[", "{", ",", "=", "return", *BINARY})

Sources = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One place of one file, changed."""

    file: str
    line_no: int
    before: str
    """The line, or lines, as they stand, without indentation and comment."""
    after: str
    nth: int
    """Which one, of those that read the same in this file, from 1."""
    text: str
    """The whole file, changed."""
    digest: str
    """Of all that the change can touch (reach.py) and the change: what a verdict is remembered by."""

    @property
    def name(self) -> tuple[str, str, str, int]:
        """What survivors.txt calls it."""
        return self.file, self.before, self.after, self.nth


def read_scripts(folder: Path) -> dict[str, str]:
    """The files of a folder of scripts."""
    return {path.name: path.read_text() for path in sorted(folder.glob("*.lua"))}


def mutants_of(sources: Sources) -> list[Mutant]:
    """All of them, in the order of files and places."""
    reach = Reach(sources)
    found = []
    for file, source in sources.items():
        tokens = tokens_of(source)
        starts = [token.start for token in tokens]
        reads_alike: Counter[tuple[str, str]] = Counter()
        for start, end, put in sorted(set(_changes(source, tokens))):
            text = source[:start] + put + source[end:]
            before, after = _lines(source, start, end), _lines(text, start, start + len(put))
            reads_alike[before, after] += 1
            unit, unit_start = reach.unit(file, start)
            first, last, zero = (bisect_left(starts, at) for at in (start, end, unit_start))
            digest = hashlib.sha256(repr((unit, first - zero, last - zero, put)).encode())
            line_no = source.count("\n", 0, start) + 1
            nth = reads_alike[before, after]
            found.append(Mutant(file, line_no, before, after, nth, text, digest.hexdigest()))
    return found


def _changes(source: str, tokens: list[Token]) -> Iterator[tuple[int, int, str]]:
    """Places to change, each with what is put there."""
    for statement in statements_of(tokens):
        yield statement.start, statement.end, "do end"
        yield from _one_target_less(source, statement)
    for at, token in enumerate(tokens):
        before = tokens[at - 1].text if at else ""
        if token.kind == "number":
            number = Decimal(token.text)
            yield token.start, token.end, str(number + 1)
            yield token.start, token.end, str(number - 1) if number >= 1 else f"({number - 1})"
        elif token.text == "not":
            yield token.start, token.end + 1, ""
        elif not (token.text == "-" and before in _UNARY_BEFORE):
            for put in SWAPS.get(token.text, ()):
                yield token.start, token.end, put
        yield from _one_key_less(source, tokens, at)


def _one_target_less(source: str, statement: Statement) -> Iterator[tuple[int, int, str]]:
    """A multiple assignment without one of its pairs."""
    targets, values = statement.targets, statement.values
    if len(targets) < 2 or len(targets) != len(values):
        return
    for gone in range(len(targets)):
        sides = [
            ", ".join(source[start:end] for at, (start, end) in enumerate(places) if at != gone)
            for places in (targets, values)
        ]
        yield statement.start, statement.end, " = ".join(sides)


def _one_key_less(source: str, tokens: list[Token], at: int) -> Iterator[tuple[int, int, str]]:
    """An MSET, or what `store` is given, without one of its keys."""
    opening = [token.text for token in tokens[at : at + 4]]
    if opening[:3] == ["store", "(", "{"]:
        first = at + 3
    elif opening == ["call", "(", "'MSET'", ","] and tokens[at + 4].text == "KEYS":
        first = at + 4
    else:
        return
    places, _ = expressions(tokens, first)
    for gone in range(0, len(places), 2):
        kept = [
            source[start:end] for n, (start, end) in enumerate(places) if n not in (gone, gone + 1)
        ]
        yield places[0][0], places[-1][1], ", ".join(kept)


def _lines(source: str, start: int, end: int) -> str:
    """The lines that hold a place, as one, without comments and indentation."""
    first = source.rfind("\n", 0, start) + 1
    last = source.find("\n", end)
    lines = source[first : last if last >= 0 else None].splitlines()
    return " ".join(line.partition(" --")[0].strip() for line in lines)
