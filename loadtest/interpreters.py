"""Finds Python interpreters and says how they were built: profile-guided and link-time optimised, or not.

    python -m loadtest.interpreters [--write FILE]     prints the one to benchmark with

An interpreter built with PGO and LTO runs the same program 15 to 20 % faster than one built without
(docs/explanation/performance.md), so that contenders are comparable only on the same kind of build.

Only the standard library is imported: this runs before anything is installed.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUPPORTED: Final = ((3, 11), (3, 12), (3, 13))
"""Versions for which every locked peer has wheels."""

_PROBE: Final = """\
import sys, sysconfig
arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
print(*sys.version_info[:3])
print("--enable-optimizations" in arguments, "--with-lto" in arguments)
print("deb_system" in sysconfig.get_scheme_names())
print(hasattr(sys, "gettotalrefcount") or "--with-pydebug" in arguments)
print(sys.implementation.name)
"""
_PROBE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python interpreter and how it was built.

    pgo, lto:  profile-guided and link-time optimisation, as `configure` was called
    debian:    built by Debian's packaging, which passes both to `make` instead of `configure`
    debug:     built with debugging checks
    """

    path: Path
    version: tuple[int, int, int]
    pgo: bool
    lto: bool
    debian: bool = False
    debug: bool = False

    @property
    def optimised(self) -> bool:
        """Whether it was built with PGO and LTO."""
        return (self.debian or (self.pgo and self.lto)) and not self.debug

    def __str__(self) -> str:
        if self.debian:
            build = "PGO and LTO, Debian's build"
        else:
            kinds = [name for name, used in (("PGO", self.pgo), ("LTO", self.lto)) if used]
            build = " and ".join(kinds) or "built without PGO and LTO"
        return f"CPython {'.'.join(map(str, self.version))} ({build}{', debug' * self.debug})"


def probe(path: Path) -> Interpreter | None:
    """Ask an interpreter how it was built; None when it does not run or is not CPython."""
    try:
        done = subprocess.run(
            [str(path), "-I", "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    if done.returncode or len(words) != 8 or words[7] != "cpython":
        return None
    major, minor, micro = map(int, words[:3])
    pgo, lto, debian, debug = (word == "True" for word in words[3:7])
    return Interpreter(path, (major, minor, micro), pgo, lto, debian, debug)


def candidates() -> Iterator[Path]:
    """Interpreters of the supported versions: on PATH, in the system's, pyenv's and uv's folders."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    roots = (data / "uv" / "python", home / ".pyenv" / "versions")
    yield Path(sys.executable)
    for major, minor in SUPPORTED:
        name = f"python{major}.{minor}"
        if found := shutil.which(name):
            yield Path(found)
        for folder in (Path("/usr/local/bin"), Path("/usr/bin")):
            yield folder / name
        yield from itertools.chain.from_iterable(root.glob(f"*/bin/{name}") for root in roots)


def best() -> Interpreter:
    """The interpreter to benchmark with: an optimised one before others, then the newest.

    Without an optimised one it is the interpreter that runs this.
    """
    found: dict[Path, Interpreter] = {}
    for path in candidates():
        real = path.resolve()
        if path.exists() and real not in found and (interpreter := probe(real)):
            found[real] = interpreter
    usable = [one for one in found.values() if one.version[:2] in SUPPORTED and one.optimised]
    if usable:
        return max(usable, key=lambda one: one.version)
    return found[Path(sys.executable).resolve()]


def main() -> None:
    """Entry point of `python -m loadtest.interpreters`."""
    parser = argparse.ArgumentParser(prog="loadtest.interpreters", description=__doc__)
    parser.add_argument("--python", type=Path, help="use this interpreter instead of searching")
    parser.add_argument(
        "--write", type=Path, help="write its path here when the choice has changed"
    )
    given = parser.parse_args()
    chosen = probe(given.python.absolute()) if given.python else best()
    if chosen is None:
        raise SystemExit(f"{given.python} is not a working CPython interpreter")
    if given.write is None:
        print(f"{chosen.path}\n{chosen}")
        return
    line = f"{chosen.path}\n"
    if not given.write.exists() or given.write.read_text() != line:
        given.write.write_text(line)
        print(f"benchmarks use {chosen} at {chosen.path}", file=sys.stderr)
    if not chosen.optimised:
        print(
            f"{chosen.path} was built without PGO and LTO: every Python contender runs 15 to 20 %"
            " slower than on an optimised build, such as Debian's, Docker's official image or uv's",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
