"""The scripts as the gate carries them, and how one is run.

Each file of `lua/` whose name begins with a letter is a script; the others are the prelude, a file
by subject. A line `-- uses: name, name` in a script, or in a function of the prelude, stands where these
functions are defined, with what they call, unless they are defined there already. A function costs
each call that reaches its definition 0.1 to 0.2 µs, so what is rarely used is named inside the branch
that uses it. Constants are replaced by their values, calls of accessors by their expressions.
The first line, `#!lua flags=…`, stays first. EVALSHA rather than Functions: two releases coexist
during a rollout.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
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
    sent_on: bool = True
    """Whether another node of a cluster runs it if that has the shard now (MOVED)."""


class Runner(Protocol):
    """Whatever runs a script: the coalescing connection on the hot path, redis-py elsewhere."""

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        """The script's reply: bytes and ints. Loads the script on NOSCRIPT and retries once.

        Raises LedgerUnavailable; `unknown` says whether the script may have run.
        """
        ...


def lua_folder() -> Path:
    """The folder of the scripts: inside the installed package, or next to it in a checkout."""
    installed = Path(__file__).parents[2] / "_lua"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "lua"


NOT_SENT_ON: Final = frozenset({"ack"})
"""It speaks of entries that were read from the old node; at these places the new one may have others."""


@cache
def load_scripts() -> dict[str, Script]:
    """Every script by name, with what it uses of the prelude in front."""
    folder = lua_folder()
    prelude = Prelude(read_prelude(folder))
    scripts = {}
    for path in sorted(folder.glob("[a-z]*.lua")):
        source = prelude.link(path.read_text()).encode()
        sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        scripts[path.stem] = Script(path.stem, source, sha, path.stem not in NOT_SENT_ON)
    return scripts


PRELUDE: Final = ("layout", "records", "periods", "rating", "grants", "signals", "limits", "outbox")
"""Files of the prelude, each after those that it uses."""


def read_prelude(folder: Path) -> str:
    """The prelude's files as one text; blank lines stand between blocks."""
    return "\n".join((folder / f"_{name}.lua").read_text() for name in PRELUDE)


class Prelude:
    """The shared functions, by name. A block stands between blank lines and defines constants
    (`local NAME, … = literal, …`), an accessor (a function of one argument that returns an
    expression), or one function or table."""

    def __init__(self, source: str) -> None:
        self._constants: dict[str, str] = {}
        self._accessors: dict[str, tuple[str, str]] = {}
        self._blocks: dict[str, list[str]] = {}
        for block in source.split("\n\n"):
            lines = [line for line in _code(block) if not self._note_constants(line)]
            text = "\n".join(lines)
            if accessor := _ACCESSOR.fullmatch(text):
                name, argument, expression = accessor.groups()
                self._accessors[name] = argument, expression
            elif lines:
                self._blocks[_defined(lines[0])] = lines

    def link(self, script: str) -> str:
        """The script with the functions that it names, constants and accessors replaced."""
        shebang, _, rest = script.partition("\n")
        text = "\n".join(self._include(_code(rest), ()))
        text = _CALL.sub(self._access, text)
        left = self._accessors.keys() & set(_WORD.findall(text))
        assert not left, f"an accessor takes one name: {left}"
        return f"{shebang}\n{_WORD.sub(self._value, text)}\n".removesuffix("\n")

    def _include(self, lines: Sequence[str], known: Sequence[str]) -> Iterator[str]:
        """The lines, with each `-- uses:` replaced by the functions that are not known there.

        What is included is known up to the end of its Lua block: to the next line that is indented less.
        """
        inner: list[tuple[int, str]] = []
        for line in lines:
            indent = len(line) - len(line.lstrip())
            inner = [(depth, name) for depth, name in inner if depth <= indent]
            if (uses := _USES.match(line)) is None:
                yield line
                continue
            here = [*known, *(name for _, name in inner)]
            for name in self._needed(uses[1].split(", "), here):
                yield from self._include(self._blocks[name], here)
                here.append(name)
                inner.append((indent, name))

    def _needed(self, names: Sequence[str], known: Sequence[str]) -> list[str]:
        """These and what they call at once, in the prelude's order, without what is known."""
        needed, waiting = set[str](), [name for name in names if name not in known]
        while waiting:
            name = waiting.pop()
            needed.add(name)
            lines = self._blocks[name]
            later = {
                each for line in lines if (u := _USES.match(line)) for each in u[1].split(", ")
            }
            called = set(_WORD.findall("\n".join(line for line in lines if not _USES.match(line))))
            calls = (called & self._blocks.keys()) - later - needed - set(known)
            waiting += sorted(calls)
        return [name for name in self._blocks if name in needed]

    def _note_constants(self, line: str) -> bool:
        found = _CONSTANTS.fullmatch(line)
        if found is None:
            return False
        names, values = (part.split(", ") for part in found.groups())
        self._constants.update(zip(names, values, strict=True))
        return True

    def _value(self, word: re.Match[str]) -> str:
        return self._constants.get(word[0], word[0])

    def _access(self, call: re.Match[str]) -> str:
        if call[1] not in self._accessors:
            return call[0]
        argument, expression = self._accessors[call[1]]
        return "(" + re.sub(rf"\b{argument}\b", call[2], expression) + ")"


_USES: Final = re.compile(r" *-- uses: (.*)")
_ACCESSOR: Final = re.compile(r"local function (\w+)\((\w+)\)\n  return ([\w +*>,()\[\]]+)\nend")
_CALL: Final = re.compile(r"\b(\w+)\((\w+)\)")
_WORD: Final = re.compile(r"(?<![\w.'])[A-Za-z_]\w*")
_LITERAL: Final = r"(?:\d+|'[^',]*'|[a-z]+\.[a-z]+)"
_CONSTANTS: Final = re.compile(rf"local ([A-Za-z_, ]+) = ({_LITERAL}(?:, {_LITERAL})*)")
_COMMENT: Final = re.compile(r"(?:^| +)--(?! uses: ).*")
_DEFINED: Final = re.compile(r"local (?:function )?(\w+)")


def _code(source: str) -> list[str]:
    """Lines without comments, and without those that were nothing else."""
    lines = (_COMMENT.sub("", line) for line in source.splitlines())
    return [line for line in lines if line]


def _defined(line: str) -> str:
    found = _DEFINED.match(line)
    assert found is not None, f"a block of the prelude must define something: {line}"
    return found[1]
