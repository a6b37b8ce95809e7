"""A figure that design asks for: its name, what was measured, what it must and should be. Pure.

Invariants: what was not measured is there too, and says why.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from rich.table import Table

Verdict = Literal["aim met", "met", "not met", "not measured"]
_COLOURS: Final = {"aim met": "green", "met": "green", "not met": "red", "not measured": "yellow"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One judged figure.

    value:    None when it was not measured
    must:     the least that is good enough; "met" is the must alone
    at_least: higher is better; else lower is
    note:     what a reader must know of this value, or why there is none
    """

    name: str
    value: float | None
    must: float
    aim: float
    at_least: bool = False
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """How the figure stands."""
        if self.value is None or self.value != self.value:
            return "not measured"
        if self._reaches(self.value, self.aim):
            return "aim met"
        return "met" if self._reaches(self.value, self.must) else "not met"

    def _reaches(self, value: float, limit: float) -> bool:
        return value >= limit if self.at_least else value <= limit

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "verdict": self.verdict}


def table_of(figures: Sequence[Figure]) -> Table:
    """The figures with their verdicts."""
    table = Table("figure", title="Targets")
    for name in ("here", "must", "aim"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("note")
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        table.add_row(
            figure.name,
            "–" if figure.verdict == "not measured" else f"{figure.value:,.2f}",
            f"{sign} {figure.must:,g}",
            f"{sign} {figure.aim:,g}",
            f"[{_COLOURS[figure.verdict]}]{figure.verdict}",
            figure.note,
        )
    return table
