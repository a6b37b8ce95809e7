"""What providers report as usage: one table per dialect of names, one accumulator per answer.

A table maps each spelling of a figure to its meaning. Several spellings of one meaning in one
report are the same figure, so the largest counts, once. Of several reports in one answer no figure
ever falls, and what is impossible undoes nothing: each figure that is none is left out by itself.

The meanings are turned into exclusive pools afterwards, by what the API includes in what:

- OpenAI (all endpoints): the prompt includes cached, cache-written, audio and image tokens; the
  completion includes reasoning and audio tokens.
- Anthropic: the input excludes cache reads and writes; the output includes thinking.
- Gemini: the prompt includes cached tokens; tool prompts and thoughts are additional.

Where a total is reported it arbitrates: some servers report reasoning or cached tokens in addition
to the figures that should include them. A total that exceeds all its parts is billed as reasoning.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.dialects.reading.numbers import MAX_REPORTED, BadUsage, read_quantity

Figures = dict[str, int]
"""Meaning → the largest figure reported for it."""

PROMPT: Final = "prompt"
COMPLETION: Final = "completion"
TOTAL: Final = "total"
CACHED: Final = "cached"
MISSED: Final = "missed"
WRITTEN: Final = "written"
WRITTEN_5M: Final = "written_5m"
WRITTEN_1H: Final = "written_1h"
AUDIO_IN: Final = "audio_in"
IMAGE_IN: Final = "image_in"
TOOL_IN: Final = "tool_in"
REASONING: Final = "reasoning"
AUDIO_OUT: Final = "audio_out"
CALLS: Final = "calls"
SECONDS: Final = "seconds"


@dataclass(frozen=True, slots=True)
class Modalities:
    """A list of `{modality, tokenCount}`; figures of one meaning are added up."""

    meanings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Suffix:
    """An object whose members with this ending are added up to one meaning."""

    ending: str
    meaning: str


Names = Mapping[str, Any]
"""Name in a report → its meaning, or how to read the object or list that stands there."""


UsualFigures = tuple[int, int, int, int]
"""Prompt, completion, and what they include: cached and reasoning."""


@dataclass(slots=True)
class Pools:
    """What figures mean. Never changed.

    usage:            exclusive pools of what was reported, those above zero
    input_reported:   the report says how much input there was; zero for a prompt is no report
    output_reported:  the report says how much output there was
    unexplained:      a total exceeds its parts; the surplus is in `reasoning`
    """

    usage: dict[str, int]
    input_reported: bool
    output_reported: bool
    unexplained: bool = False


@dataclass(frozen=True, slots=True)
class UsageTable:
    """How one dialect reports usage.

    names:  see `Names`
    pools:  figures and the output counted so far → pools; raises BadUsage when they are impossible
    usual:  of an API most of whose reports are alike: the figures of such a report, which are above
            zero except those of details, agree with each other and with the total, and are all that
            it says; None for any other report
    """

    names: Names
    pools: Callable[[Figures, int], Pools]
    usual: Callable[[dict[str, Any]], UsualFigures | None] | None = None


def read_figures(report: Any, table: UsageTable) -> tuple[Figures, str | None]:
    """The figures of one report, and why the first impossible one was left out, if one was.

    A value of another kind (an empty list where details belong) counts as absent.
    """
    if type(report) is not dict:
        return {}, "usage is not an object" if report else None
    if table.usual is not None and (usual := table.usual(report)):
        prompt, completion, cached, reasoning = usual
        figures = {PROMPT: prompt, COMPLETION: completion, TOTAL: prompt + completion}
        if cached or reasoning:
            figures |= {CACHED: cached, REASONING: reasoning}
        return figures, None
    reading = _Reading()
    reading.collect(report, table.names)
    return reading.figures, reading.problem


class _Reading:
    __slots__ = ("figures", "problem")

    def __init__(self) -> None:
        self.figures: Figures = {}
        self.problem: str | None = None

    def collect(self, report: dict[str, Any], names: Names) -> None:
        figures = self.figures
        for name, value in report.items():
            row = names.get(name)
            if row is None or not value:
                if value == 0 and type(value) is int and type(row) is str:
                    figures.setdefault(row, 0)
                continue
            if type(row) is str:
                # Nearly all figures are plain integers: the reader is for those that are not.
                plain = type(value) is int and 0 <= value <= MAX_REPORTED
                quantity = value if plain else self._quantity(value, name)
                if quantity is not None and quantity > figures.get(row, -1):
                    figures[row] = quantity
            elif type(row) is Modalities:
                if type(value) is list:
                    self._add_modalities(name, value, row)
            elif type(value) is not dict:
                continue
            elif type(row) is Suffix:
                members = [n for n in value if n.endswith(row.ending)]
                total = sum(self._quantity(value[n], n) or 0 for n in members)
                figures[row.meaning] = max(total, figures.get(row.meaning, 0))
            elif any(value.values()):  # most details are zeros
                self.collect(value, row)

    def _quantity(self, value: Any, name: str) -> int | None:
        try:
            return read_quantity(value, name)
        except BadUsage as problem:
            self.problem = self.problem or str(problem)
            return None

    def _add_modalities(self, name: str, value: list[Any], row: Modalities) -> None:
        sums: Figures = {}
        for item in value:
            modality = item.get("modality") if type(item) is dict else None
            meaning = row.meanings.get(modality) if type(modality) is str else None
            if meaning is not None:
                count = item.get("tokenCount", item.get("token_count"))
                sums[meaning] = sums.get(meaning, 0) + (self._quantity(count, name) or 0)
        for meaning, total in sums.items():
            self.figures[meaning] = max(total, self.figures.get(meaning, 0))


class UsageAccumulator:
    """All reports of one answer.

    pools:          what they say together; None until one was usable
    final:          the provider has said that its figures are complete
    problem:        why the first impossible figure was left out
    counted_at:     output counted by the gate when the last usable report of output came
    """

    __slots__ = ("_figures", "_table", "counted_at", "final", "pools", "problem")

    def __init__(self, table: UsageTable) -> None:
        self._table = table
        self._figures: Figures = {}
        self.pools: Pools | None = None
        self.final = False
        self.problem: str | None = None
        self.counted_at = 0

    def take(self, report: Any, counted_output: int, *, final: bool) -> bool:
        """Merge one report. False when it says nothing: absent, empty, zeros, or impossible."""
        if report is None:
            return False
        known = self._figures
        figures, problem = read_figures(report, self._table)
        self.problem = self.problem or problem
        if not any(figures.values()):
            return False
        merged = figures
        if known:
            merged = {**known}
            for meaning, quantity in figures.items():
                if quantity > merged.get(meaning, -1):
                    merged[meaning] = quantity
        try:
            self.pools = self._table.pools(merged, counted_output)
        except BadUsage as impossible:
            self.problem = self.problem or str(impossible)
            return False
        self._figures = merged
        self.final = self.final or final
        if _tells_output(figures, known):
            self.counted_at = counted_output
        return True

    @property
    def says_anything(self) -> bool:
        """Whether any report was usable."""
        return self.pools is not None


def _tells_output(figures: Figures, known: Figures) -> bool:
    """Whether a report covers the output so far: it names more than was known. A server that
    repeats its first figure says nothing about what came since."""
    for meaning in (COMPLETION, REASONING):
        if figures.get(meaning):
            return figures[meaning] > known.get(meaning, 0)
    return not known.get(COMPLETION) and figures.get(TOTAL, 0) > known.get(TOTAL, 0)


def present(**pools: int) -> dict[str, int]:
    """The pools that hold anything."""
    return {unit: quantity for unit, quantity in pools.items() if quantity}
