"""What a change of one place can touch: the scripts that carry its part of the sources.

A part is a script, or in the prelude a block, or a line of constants. The linker itself is asked
which scripts carry it, once for all parts: it links a prelude in which each block has a mark of
its own, and each constant stands for its name.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Mapping

from gateway.ledger.client.scripts import PRELUDE, Prelude
from tests.mutants.tokens import tokens_of

_ACCESSOR = re.compile(r"local function \w+\(\w\)\n  return .*\nend")
_CONSTANTS = re.compile(r"local ([A-Za-z_, ]+) = (?:[\d']|[a-z]+\.[a-z]+).*")


class Reach:
    """Digest of what each part of the sources can touch."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        files = [f"_{name}.lua" for name in PRELUDE if f"_{name}.lua" in sources]
        bare = Prelude("\n".join(sources[file] for file in files))
        parts = {file: _parts(sources[file]) for file in files}
        marked = Prelude("\n\n".join(part.marked for file in files for part in parts[file]))
        carried = {}
        for file, source in sources.items():
            if file not in parts:
                words = hashlib.sha256(repr(_words(bare.link(source))).encode()).hexdigest()
                carried[file] = (frozenset(_words(marked.link(source))), words)
        self._units: dict[str, tuple[list[int], list[str]]] = {}
        for file, found in parts.items():
            digests = [
                _digest(part.text, {name: words for name, (marks, words) in carried.items()
                                    if not part.marks.isdisjoint(marks)})
                for part in found
            ]  # fmt: skip
            self._units[file] = ([part.start for part in found], digests)
        for file, (_, words) in carried.items():
            self._units[file] = ([0], [_digest(sources[file], {file: words})])

    def unit(self, file: str, at: int) -> tuple[str, int]:
        """The digest of the part that holds a place, and where the part begins."""
        starts, digests = self._units[file]
        nth = bisect_right(starts, at) - 1
        return digests[nth], starts[nth]


class _Part:
    """A block of the prelude, or one line of constants in it."""

    def __init__(self, start: int, text: str) -> None:
        self.start = start
        self.text = text
        if found := _CONSTANTS.fullmatch(text.partition(" --")[0].rstrip()):
            names = found[1].split(", ")
            quoted = [f"'{name}'" for name in names]
            self.marks = frozenset(quoted)
            self.marked = f"local {found[1]} = {', '.join(quoted)}"
        elif all(line.startswith("--") for line in text.splitlines()):
            self.marks, self.marked = frozenset[str](), text
        else:
            mark = f"part_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
            self.marks = frozenset({mark})
            if _ACCESSOR.fullmatch(text.rstrip()):
                self.marked = text.rstrip().replace("  return ", f"  return {mark} + ")
            else:
                self.marked = f"{text.rstrip()}\n{mark}"


def _parts(source: str) -> list[_Part]:
    """All of them, in order; a line of constants is one of its own."""
    found, start, lines = [], 0, list[str]()
    at = 0
    for line in source.splitlines(keepends=True):
        constants = _CONSTANTS.match(line) is not None
        if (constants or not line.strip()) and lines:
            found.append(_Part(start, "".join(lines)))
            lines = []
        if constants:
            found.append(_Part(at, line))
        elif line.strip():
            if not lines:
                start = at
            lines.append(line)
        at += len(line)
    if lines:
        found.append(_Part(start, "".join(lines)))
    return found


def _words(source: str) -> list[str]:
    return [token.text for token in tokens_of(source)]


def _digest(text: str, carriers: Mapping[str, str]) -> str:
    said = repr((_words(text), sorted(carriers.items())))
    return hashlib.sha256(said.encode()).hexdigest()
