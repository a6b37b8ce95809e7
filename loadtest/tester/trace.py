"""A trace: JSON lines that say when which request came, to be played again.

    {"timestamp": 27482, "input_length": 6955, "output_length": 52}

These are the fields of published traces (milliseconds from the start, tokens). A line may add
`model`, `key`, `stream`, or a whole `body` and `path` to send as they are; what it does not say
is drawn from the mix.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_MOST_PROBLEMS = 20


class BadTrace(ValueError):
    """The file is no trace; `problems` are the first mistakes, each with its line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Line(BaseModel):
    """One request of a trace. timestamp: milliseconds; lengths: tokens."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    timestamp: float = Field(ge=0)
    input_length: int | None = Field(None, ge=1)
    output_length: int | None = Field(None, ge=1)
    model: str | None = None
    key: str | None = None
    stream: bool | None = None
    path: str | None = Field(None, pattern=r"^/[!-~]*$")
    body: dict[str, Any] | None = None


def read_trace(path: Path, speed: float = 1.0) -> list[Line]:
    """The lines by time, which starts at 0; `speed` 2 plays twice as fast. Raises BadTrace, OSError."""
    lines: list[Line] = []
    problems: list[str] = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if not text.strip():
            continue
        try:
            lines.append(Line.model_validate_json(text))
        except ValidationError as invalid:
            error = invalid.errors(include_url=False)[0]
            at = ".".join(map(str, error["loc"]))
            problems.append(f"{path}:{number}: {at + ': ' if at else ''}{error['msg']}")
    if not lines and not problems:
        problems.append(f"{path}: has no line")
    if problems:
        raise BadTrace(problems[:_MOST_PROBLEMS])
    lines.sort(key=lambda line: line.timestamp)
    first_ms = lines[0].timestamp
    return [
        line.model_copy(update={"timestamp": (line.timestamp - first_ms) / speed}) for line in lines
    ]
