"""JSON pointers (RFC 6901): a place in a JSON document."""

import re
from dataclasses import dataclass
from typing import Any, Final

from gateway.dialects.base import BadRequest

MISSING: Final = object()
"""Nothing stands at the place."""

_BAD_ESCAPE: Final = re.compile(r"~(?![01])")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer as it was written, and its steps."""

    text: str
    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Pointer":
        """Raises ValueError."""
        if text and not text.startswith("/"):
            raise ValueError("a JSON pointer starts with /")
        if _BAD_ESCAPE.search(text):
            raise ValueError("a ~ of a JSON pointer is written ~0, a / inside a name ~1")
        steps = text.split("/")[1:]
        return cls(text, tuple(step.replace("~1", "/").replace("~0", "~") for step in steps))

    def find(self, document: Any) -> Any:
        """What stands there, or MISSING."""
        here = document
        for step in self.steps:
            if type(here) is dict and step in here:
                here = here[step]
            elif type(here) is list and _INDEX.fullmatch(step) and int(step) < len(here):
                here = here[int(step)]
            else:
                return MISSING
        return here

    def find_alone(self, document: Any) -> Any:
        """What stands there, where no reader could take another member for it: some match names
        whatever their case. Raises BadRequest."""
        here = document
        for step in self.steps:
            if type(here) is dict:
                folded = step.casefold()
                for name in here:
                    if name != step and name.casefold() == folded:
                        raise BadRequest(
                            f"The name {name!r} could be taken for {step!r}; send {step!r}.",
                            param=self.text,
                        )
            here = Pointer("", (step,)).find(here)
            if here is MISSING:
                break
        return here
