"""Interpolate `${NAME}`, `${NAME:-default}` and `${file:path}` in scalars of the configuration.

Invariants: an inserted text is never searched for references, so a value cannot name another.
`$${` stands for a literal `${`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.settings.problems import Wrong

MAX_FILE_BYTES: Final = 65_536

_REFERENCE = re.compile(
    r"(?P<escaped>\$\$\{)"
    r"|\$\{file:(?P<file>[^}]+)\}"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-(?P<default>[^}]*))?\}"
    r"|(?P<broken>\$\{[^}]*\}?)"
)


class Interpolator:
    """Fills in references; `files` are those it has read, so that they can be watched."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self.files: list[Path] = []

    def fill(self, text: str) -> str:
        """Return the text with every reference replaced. Raises Wrong."""
        if "${" not in text:
            return text
        return _REFERENCE.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        if match["escaped"]:
            return "${"
        if match["file"]:
            return self._read(match["file"].strip())
        name = match["name"]
        if name is None:
            raise Wrong(
                f"{match['broken']!r} is not a reference",
                "Write ${NAME}, ${NAME:-default} or ${file:path}; $${ for a literal ${.",
            )
        value = self._environ.get(name)
        if match["fallback"] and not value:
            return str(match["default"])
        if value is None:
            raise Wrong(
                f"the environment variable {name} is not set",
                f"Set it, or give a default: ${{{name}:-default}}.",
            )
        return value

    def _read(self, name: str) -> str:
        path = self._folder / name
        self.files.append(path)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            text = content.decode()
        except OSError as error:
            raise Wrong(
                f"the file {name} cannot be read: {error.strerror}",
                "Paths are relative to the configuration file.",
            ) from error
        except UnicodeDecodeError as error:
            raise Wrong(f"the file {name} is not UTF-8 text") from error
        if len(content) > MAX_FILE_BYTES:
            raise Wrong(f"the file {name} is larger than {MAX_FILE_BYTES} bytes")
        return text.removesuffix("\n").removesuffix("\r")
