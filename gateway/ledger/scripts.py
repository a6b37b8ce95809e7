"""The scripts as the gate carries them, and how one is run.

Each file of `lua/` but the prelude is a script; `_prelude.lua` is put in front of it.
Its first line, `#!lua flags=…`, must stay the first of the whole. EVALSHA rather than Functions:
two releases coexist during a rollout.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol


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
    installed = Path(__file__).parent.parent / "_lua"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "lua"


@cache
def load_scripts() -> dict[str, Script]:
    """Every script by name, prelude in front."""
    folder = lua_folder()
    prelude = (folder / "_prelude.lua").read_bytes()
    scripts = {}
    for path in sorted(folder.glob("[a-z]*.lua")):
        shebang, _, body = path.read_bytes().partition(b"\n")
        source = shebang + b"\n" + prelude + body
        scripts[path.stem] = Script(
            path.stem, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        )
    return scripts

