"""Read files of key hashes, one per line: `SHA256 [ID [PROJECT]]`; `#` starts a comment.

The lines become entries of the customer's `keys` before validation, so the same rules apply to
both, and a mistake is reported with its file and line.
"""

from pathlib import Path as FilePath
from typing import Any, Final

from gateway.settings.document import Document, Place
from gateway.settings.problems import Finding, Path, Problem, show_path

_FIELDS: Final = ("sha256", "id", "project")


def include_key_files(document: Document) -> None:
    """Read the `key_files` of each customer into its `keys`; problems go to the document."""
    customers = document.tree.get("customers")
    for name, customer in customers.items() if isinstance(customers, dict) else ():
        if not isinstance(customer, dict) or not isinstance(customer.get("key_files"), list):
            continue
        at: Path = ("customers", name)
        keys = customer.setdefault("keys", [])
        if not isinstance(keys, list):
            continue
        document.places.setdefault((*at, "keys"), document.places[(*at, "key_files")])
        for number, file_name in enumerate(customer["key_files"]):
            if isinstance(file_name, str):
                _include(document, file_name, (*at, "key_files", number), keys, (*at, "keys"))


def _include(document: Document, file_name: str, named_at: Path, keys: list[Any], at: Path) -> None:
    file = document.folder / FilePath(file_name)
    document.files.append(file)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        document.problems.append(
            document.problem(
                Finding(
                    named_at,
                    f"the file {file_name!r} cannot be read: {reason}",
                    "Paths are relative to the configuration file.",
                )
            )
        )
        return
    for line_number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        place = Place(str(file), line_number, len(line) - len(line.lstrip()) + 1)
        if len(words) > len(_FIELDS):
            document.problems.append(
                Problem(
                    *place, show_path(at), "a line has at most three words", "SHA256 [ID [PROJECT]]"
                )
            )
        elif words:
            document.places[(*at, len(keys))] = place
            keys.append(dict(zip(_FIELDS, words, strict=False)))
