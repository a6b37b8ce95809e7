"""What a test rests on: its file, and all of the project's files that it imports, and they."""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

OURS = ("gateway", "tests")


def digest(root: Path, names: Sequence[str]) -> str:
    """Of the files of those names from the root, and of what they import."""
    files: set[Path] = set()
    waiting = [root / name for name in names]
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            waiting += imported(root, file)
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()[:16]


@cache
def imported(root: Path, file: Path) -> tuple[Path, ...]:
    """The project's files that a file names in its imports, packages' own files too."""
    return tuple(
        path
        for name in _modules(ast.parse(file.read_text()))
        if name.partition(".")[0] in OURS
        for base in [root.joinpath(*name.split("."))]
        for path in (base.with_suffix(".py"), base / "__init__.py")
        if path.exists()
    )


def _modules(tree: ast.Module) -> Iterator[str]:
    """Names of what is imported, wherever it stands; of what may be a name or a module, both."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
