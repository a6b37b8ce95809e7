"""A YAML file as plain values that remember where they stand.

Invariants:
- Every scalar is text, or None when nothing is written; the field that takes it decides how it
  is read. So a price never passes through a binary float, and `${PORT}` can stand for a number.
- A key stands once per mapping. Anchors, aliases and merge keys (`<<`) are allowed; an alias
  inside itself, and aliases that expand beyond `MAX_NODES`, are not.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, Final, NamedTuple

import yaml

from gateway.settings.interpolate import Interpolator
from gateway.settings.problems import Finding, Path, Problem, Wrong, show_path

MAX_NODES: Final = 2_000_000
MAX_DEPTH: Final = 40

_NOTHING: Final = frozenset({"", "~", "null", "Null", "NULL"})
_MERGE: Final = "<<"
_IN_BRACKETS: Final = ("while parsing a flow mapping", "while parsing a flow sequence")
"""Parser contexts whose mark is an opening bracket."""
_OWN_TAGS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class Place(NamedTuple):
    """A position: file, line and column, counted from 1."""

    file: str
    line: int
    column: int


class Document:
    """What a configuration file says. `tree` is dicts, lists, texts and None; {} if unreadable.

    problems:  what was wrong with it as YAML, and references that could not be filled in
    files:     everything read, in order
    unread:    where a value could not be read, so that nothing more can be said of it
    """

    def __init__(self, file: FilePath, environ: Mapping[str, str]) -> None:
        self.file = file
        self.folder = file.parent
        self.problems: list[Problem] = []
        self.files: list[FilePath] = [file]
        self.places: dict[Path, Place] = {(): Place(str(file), 1, 1)}
        self.tree: dict[str, Any] = {}
        self.unread: set[Path] = set()
        self._written: dict[Path, tuple[str, str]] = {}
        self._interpolator = Interpolator(self.folder, environ)
        self._nodes = 0
        root = self._compose()
        if root is not None:
            tree = self._value(root, ())
            if isinstance(tree, dict):
                self.tree = tree
            elif tree is not None:
                self._note((), "the file must be a mapping of sections", "Start with `models:`.")
        self.files += self._interpolator.files

    def problem(self, finding: Finding) -> Problem:
        """Locate a finding. Interpolated values are shown as written in the file."""
        path = finding.path
        while path not in self.places:
            path = path[:-1]
        message, hint = finding.message, finding.hint
        for at, (written, filled) in self._written.items():
            if filled and at[: len(finding.path)] == finding.path:
                message = message.replace(filled, written)
                hint = hint.replace(filled, written)
        return Problem(*self.places[path], show_path(finding.path), message, hint)

    def _note(self, path: Path, message: str, hint: str = "") -> None:
        self.unread.add(path)
        self.problems.append(self.problem(Finding(path, message, hint)))

    def _compose(self) -> yaml.Node | None:
        try:
            text = self.file.read_text(encoding="utf-8")
        except OSError as error:
            self._note((), f"the file cannot be read: {error.strerror}")
            return None
        except UnicodeDecodeError:
            self._note((), "the file is not UTF-8 text")
            return None
        loader = _Loader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
        except yaml.YAMLError as error:
            self.problems.append(_unreadable(str(self.file), text, error))
            self.unread.add(())
            return None
        finally:
            loader.dispose()
        return node

    def _value(self, node: yaml.Node, path: Path, above: tuple[int, ...] = ()) -> Any:
        place = Place(str(self.file), node.start_mark.line + 1, node.start_mark.column + 1)
        self.places.setdefault(path, place)
        self._nodes += 1
        if self._nodes > MAX_NODES or len(above) > MAX_DEPTH or id(node) in above:
            if self._nodes <= MAX_NODES + 1:
                self._note(path, "aliases or nesting expand without limit")
            return None
        if node.tag not in _OWN_TAGS:
            self._note(path, f"the tag {node.tag} is not understood", "Remove the tag.")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._text(node, path)
        above = (*above, id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, at), above) for at, item in enumerate(node.value)]
        return self._mapping(node, path, above)

    def _mapping(self, node: yaml.Node, path: Path, above: tuple[int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            place = Place(str(self.file), line, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(*place, show_path(path), "a key must be plain text"))
                continue
            key = key_node.value
            if key == _MERGE and not key_node.style:
                merged += self._merged(value_node, path, place)
            elif key in first:
                twice = f"the key {key!r} is duplicated"
                hint = f"It is first defined in line {first[key]}; keep one of them."
                self.problems.append(Problem(*place, show_path(path), twice, hint))
            else:
                first[key] = line
                self.places.setdefault((*path, key), place)
                result[key] = self._value(value_node, (*path, key), above)
        for source in merged:
            if id(source) in above:
                self._note(path, "aliases or nesting expand without limit")
                continue
            for key, value in self._mapping(source, path, (*above, id(source))).items():
                result.setdefault(key, value)
        return result

    def _merged(self, node: yaml.Node, path: Path, place: Place) -> Iterator[yaml.Node]:
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(source, yaml.MappingNode):
                yield source
            else:
                self.problems.append(
                    Problem(*place, show_path(path), "`<<` takes a mapping or a list of mappings")
                )

    def _text(self, node: yaml.ScalarNode, path: Path) -> str | None:
        text: str = node.value
        if not node.style and text in _NOTHING:
            return None
        try:
            filled = text if "\0" in text else self._interpolator.fill(text)
        except Wrong as wrong:
            self._note(path, wrong.message, wrong.hint)
            return text
        if "\0" in filled:  # no name, path or address can hold it
            self._note(path, "the value holds a NUL character", "Remove it.")
            return None
        if filled != text:
            self._written[path] = (text, filled)
        return filled


def _unreadable(file: str, text: str, error: yaml.YAMLError) -> Problem:
    """Say where and why the text is not YAML. The parser may point behind the end of the text."""
    lines = text.splitlines() or [""]
    hint = ""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = error.problem or error.context or "cannot be read"
        opened = error.context_mark
        if opened is not None and error.context in _IN_BRACKETS:
            hint = f"The bracket opened in line {opened.line + 1} may not be closed."
    elif isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position].splitlines() or [""]
        line, column, what = len(before), len(before[-1]) + 1, str(error.reason)
    else:
        line, column, what = 1, 1, str(error)
    if line > len(lines):
        line, column = len(lines), len(lines[-1]) + 1
    said = lines[line - 1]
    if said[column - 1 : column] == "\t":
        hint = "YAML is indented with spaces, not with tabs."
    elif "${" in said:
        hint = "Inside { } and [ ] a value with ${…} needs quotes."
    return Problem(file, line, column, "", f"not valid YAML: {what}", hint)
