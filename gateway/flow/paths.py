"""Paths with placeholders: `/v1/users/{id}/report`, `/v1beta/models/{model}:generateContent`.

A placeholder stands for one segment, or for what is before a literal `:suffix` of it: plain
characters, no escapes, no colon. So a path matches in one way, and what is forwarded is what was matched.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

PLACEHOLDER: Final = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}(:[A-Za-z0-9_-]+)?")
"""A whole segment that is not literal."""
_VALUE: Final = r"[A-Za-z0-9._~!$&'()*+,=@-]+"
_LITERAL: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@-]+")


@dataclass(frozen=True, slots=True)
class Template:
    """A path's segments, as they are written. Raises ValueError for one that cannot be read."""

    text: str
    segments: tuple[str, ...] = field(init=False)
    _pattern: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        segments = tuple(self.text.split("/")[1:])
        names = [match[1] for each in segments if (match := PLACEHOLDER.fullmatch(each))]
        if not self.text.startswith("/") or len(set(names)) != len(names):
            raise ValueError(f"{self.text!r} is not a path, or names a placeholder twice")
        for each in segments:
            if not PLACEHOLDER.fullmatch(each) and (
                not _LITERAL.fullmatch(each) or each in (".", "..")
            ):
                raise ValueError(f"{each!r} is not a plain segment or a placeholder")
        object.__setattr__(self, "segments", segments)
        object.__setattr__(
            self, "_pattern", re.compile("".join(f"/{_segment(each)}" for each in segments))
        )

    @property
    def plain(self) -> bool:
        """Whether nothing is left open."""
        return "{" not in self.text

    def matches(self, path: str) -> bool:
        """Whether this path is one of those that are meant."""
        return self._pattern.fullmatch(path) is not None

    def overlaps(self, other: "Template") -> bool:
        """Whether some path could be meant by both."""
        return len(self.segments) == len(other.segments) and all(
            _may_meet(mine, theirs)
            for mine, theirs in zip(self.segments, other.segments, strict=True)
        )


def _segment(written: str) -> str:
    match = PLACEHOLDER.fullmatch(written)
    return re.escape(written) if match is None else _VALUE + re.escape(match[2] or "")


def _may_meet(one: str, other: str) -> bool:
    open_one, open_other = PLACEHOLDER.fullmatch(one), PLACEHOLDER.fullmatch(other)
    if open_one is None and open_other is None:
        return one == other
    if open_one is not None and open_other is not None:
        return open_one[2] == open_other[2]
    written, literal = (one, other) if open_one is not None else (other, one)
    return re.fullmatch(_segment(written), literal) is not None


T = TypeVar("T")


class PathTable(Generic[T]):
    """Values by path: a path without placeholders first, then the one template that matches."""

    __slots__ = ("_exact", "_open")

    def __init__(self, values: Iterable[tuple[str, T]]) -> None:
        self._exact: dict[str, T] = {}
        self._open: dict[int, list[tuple[Template, T]]] = {}
        for path, value in values:
            if "{" in path:
                template = Template(path)
                self._open.setdefault(len(template.segments), []).append((template, value))
            else:
                self._exact[path] = value

    def find(self, path: str) -> T | None:
        """What stands for this path."""
        found = self._exact.get(path)
        if found is None and self._open:
            candidates: Sequence[tuple[Template, T]] = self._open.get(path.count("/"), ())
            for template, value in candidates:
                if template.matches(path):
                    return value
        return found
