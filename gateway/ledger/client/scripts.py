"""The scripts as the gate carries them, and how one is run.

Each file of `lua/` whose name begins with a letter is a script; the others are the prelude, a file
by subject. The loader puts in front of a script what it uses of the prelude, function by function,
with the constants' values in place of their names, those of Lua's own functions too: the prelude
runs at each call, and each function that it defines costs 0.1 to 0.2 µs, each name of outside that
the function captures a part of that. The first line, `#!lua flags=…`, stays the first of the whole.
What a comment calls rare is defined when it is first asked for, with those that are rare as it is:
`-- rare: why`, or ``-- rare, as `that`:``. EVALSHA
rather than Functions: two releases coexist during a rollout.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol


@dataclass(frozen=True, slots=True)
class Script:
    """One script, ready to send."""

    name: str
    source: bytes
    sha: bytes
    """Hex SHA-1 of the source, as EVALSHA wants it."""


class Runner(Protocol):
    """Whatever runs a script: the coalescing connection on the hot path, redis-py elsewhere."""

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        """The script's reply: bytes and ints. Loads the script on NOSCRIPT and retries once.

        Raises LedgerUnavailable; `unknown` says whether the script may have run.
        """
        ...


def lua_folder() -> Path:
    """Where the scripts lie: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parents[2] / "_lua"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "lua"


@cache
def load_scripts() -> dict[str, Script]:
    """Every script by name, with what it uses of the prelude in front."""
    folder = lua_folder()
    prelude = Prelude(read_prelude(folder))
    scripts = {}
    for path in sorted(folder.glob("[a-z]*.lua")):
        source = prelude.link(path.read_text()).encode()
        scripts[path.stem] = Script(
            path.stem, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        )
    return scripts


PRELUDE: Final = ("layout", "records", "periods", "rating", "grants", "signals", "limits", "outbox")
"""Files of the prelude, each after those that it uses."""


def read_prelude(folder: Path) -> str:
    """The prelude's files as one text; blank lines stand between blocks."""
    return "\n".join((folder / f"_{name}.lua").read_text() for name in PRELUDE)


class Prelude:
    """The shared helpers, by block. A block stands between blank lines and defines constants
    (`local NAME, … = literal, …`), or other locals, or one `local function`."""

    def __init__(self, source: str) -> None:
        self._constants: dict[str, str] = {}
        self._blocks: list[tuple[frozenset[str], frozenset[str], str]] = []
        self._groups: dict[str, str] = {}  # of each rare function: with which it is defined
        for block in source.split("\n\n"):
            kept = [line for line in _code(block) if not self._note_constants(line)]
            names = frozenset(name for line in kept for name in _defined(line))
            if names:
                text = "\n".join(kept)
                self._blocks.append((names, frozenset(_WORD.findall(text)), text))
                if rare := _RARE.search(block):
                    self._groups |= {name: rare[1] or name for name in names}

    def link(self, script: str) -> str:
        """The script with the blocks it uses, in the prelude's order, after its first line."""
        shebang, _, rest = script.partition("\n")
        plain, _, rest = f"\n{rest}".rpartition(_GENERAL)
        first, before, wanted = self._uses("\n".join(_code(plain)))
        hot, known, asked = self._uses("\n".join(_code(rest)), known=before)
        known, asked = known | before, asked | wanted
        found, groups = set[str](), dict[str, str]()
        while found < asked:
            found = set(asked)
            for group in sorted({self._groups[name] for name in found}):
                entries = sorted(name for name in found if self._groups[name] == group)
                lines, _, more = self._uses(" ".join(entries), group, known)
                groups[group] = _defined_for(entries, lines[:-1])
                asked |= more
        if groups:
            hot = [*hot[:-1], _lazily(groups.values()), hot[-1]]
            first = ["local rare", *first]
        hot = first + hot
        return f"{shebang}\n{_WORD.sub(self._value, chr(10).join(hot))}"

    def _uses(
        self, text: str, group: str = "", known: Set[str] = frozenset()
    ) -> tuple[list[str], set[str], set[str]]:
        """The blocks that a text uses beside what is known, and the text; the names they define;
        and the names of other groups' rare functions, which are asked for by `rare`."""
        used, defined, asked = [text], set[str](), set[str]()
        words = set(_WORD.findall(text))
        for names, its_words, block in reversed(self._blocks):
            if names.isdisjoint(words) or not names.isdisjoint(known):
                continue
            if any(self._groups.get(name, group) != group for name in names):
                asked |= names.intersection(words)
            else:
                used.append(block)
                defined |= names
                words |= its_words
        if asked:
            by_name = re.compile(rf"\b({'|'.join(sorted(asked))})\(")
            used = [by_name.sub(r"rare('\1')(", part) for part in used]
        return used[::-1], defined, asked

    def _note_constants(self, line: str) -> bool:
        found = _CONSTANTS.fullmatch(line)
        if found is None:
            return False
        names, values = (part.split(", ") for part in found.groups())
        self._constants.update(zip(names, values, strict=True))
        return True

    def _value(self, word: re.Match[str]) -> str:
        return self._constants.get(word[0], word[0])


def _defined_for(entries: Sequence[str], blocks: Sequence[str]) -> str:
    """How `rare` defines the functions of a group."""
    asked = " or ".join(f"name == '{name}'" for name in entries)
    made = ", ".join(f"made.{name}" for name in entries)
    return "\n".join([f"if {asked} then", *blocks, f"{made} = {', '.join(entries)}", "end"])


def _lazily(groups: Iterable[str]) -> str:
    """`rare`, which defines a group when the first of its functions is asked for."""
    return "\n".join(
        [
            "rare = function(name)",
            "local made = {}",
            "rare = function(name)",
            "if not made[name] then",
            *groups,
            "end",
            "return made[name]",
            "end",
            "return rare(name)",
            "end",
        ]
    )


_GENERAL: Final = "\n-- general\n"
"""Behind it a script needs functions that its straight path, in front of it, does without."""
_RARE = re.compile(r"^-- rare(?:, as `(\w+)`)?:", re.MULTILINE)
_WORD = re.compile(r"(?<![\w.'])[A-Za-z_]\w*")
_LITERAL = r"(?:\d+|'[^',]*'|[a-z]+\.[a-z]+)"
_CONSTANTS = re.compile(rf"local ([A-Za-z_, ]+) = ({_LITERAL}(?:, {_LITERAL})*)")
_COMMENT = re.compile(r"(?:^| +)--.*")
_DEFINED = re.compile(r"local (?:function )?([\w, ]+?)(?: =|\()")


def _code(source: str) -> list[str]:
    """Lines without comments, and without those that were nothing else."""
    lines = (_COMMENT.sub("", line) for line in source.splitlines())
    return [line for line in lines if line]


def _defined(line: str) -> list[str]:
    found = _DEFINED.match(line)
    return found[1].split(", ") if found else []
