"""Which events go into which file, and what files that exist already have. Pure bookkeeping, no I/O."""

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.event_rows import EventRow

_DAY_MS: Final = 86_400_000
_FOLDERS_KEPT: Final = 1024
_NAME: Final = re.compile(r"(\d+)-(\d+)-(\d+)\.parquet")


@dataclass(frozen=True, slots=True)
class Run:
    """Events of one day and shard whose places follow each other without a gap."""

    rows: Sequence[EventRow]

    @property
    def folder(self) -> str:
        """By day (UTC) and shard, in the form that query engines take as columns."""
        first = self.rows[0]
        return f"date={_day(first)}/shard={first.shard:02d}"

    @property
    def path(self) -> str:
        """`date=2027-01-31/shard=03/1-0000000100-0000000163.parquet`: epoch, first and last seq."""
        first, last = self.rows[0], self.rows[-1]
        return f"{self.folder}/{first.epoch}-{first.seq:010d}-{last.seq:010d}.parquet"


def _day(row: EventRow) -> str:
    return (dt.date(1970, 1, 1) + dt.timedelta(row.occurred_at_ms // _DAY_MS)).isoformat()


def runs(rows: Iterable[EventRow]) -> list[Run]:
    """Cut rows into runs; a place that comes twice is taken once."""
    found: list[list[EventRow]] = []
    for row in sorted(rows, key=lambda row: row[1:4]):
        last = found[-1][-1] if found else None
        if last is not None and row[1:4] == last[1:4]:
            continue
        follows = last is not None and row[1:4] == (last.shard, last.epoch, last.seq + 1)
        if follows and last is not None and _same_day(row, last):
            found[-1].append(row)
        else:
            found.append([row])
    return [Run(each) for each in found]


def _same_day(row: EventRow, other: EventRow) -> bool:
    return row.occurred_at_ms // _DAY_MS == other.occurred_at_ms // _DAY_MS


class Covered:
    """What files that exist have: folder → epoch → spans of seq, both ends included."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[int, list[tuple[int, int]]]] = {}

    def knows(self, folder: str) -> bool:
        """Whether its files have been listed."""
        return folder in self._folders

    def learn(self, folder: str, names: Iterable[str]) -> None:
        """Take over a listing of a folder. The oldest one is forgotten when there are too many."""
        if len(self._folders) >= _FOLDERS_KEPT:
            del self._folders[next(iter(self._folders))]
        spans: dict[int, list[tuple[int, int]]] = {}
        for name in names:
            if match := _NAME.fullmatch(name):
                epoch, first, last = map(int, match.groups())
                spans.setdefault(epoch, []).append((first, last))
        self._folders[folder] = {epoch: _merged(each) for epoch, each in spans.items()}

    def add(self, run: Run) -> None:
        """A file of this run exists now."""
        spans = self._folders.setdefault(run.folder, {})
        epoch, first, last = run.rows[0].epoch, run.rows[0].seq, run.rows[-1].seq
        spans[epoch] = _merged([*spans.get(epoch, ()), (first, last)])

    def missing(self, run: Run) -> list[Run]:
        """What no file has of a run."""
        first = run.rows[0]
        spans = self._folders.get(run.folder, {}).get(first.epoch, [])
        found, start = [], first.seq
        for low, high in spans:
            if high < start:
                continue
            if low > run.rows[-1].seq:
                break
            if low > start:
                found.append(Run(run.rows[start - first.seq : low - first.seq]))
            start = high + 1
        if start <= run.rows[-1].seq:
            found.append(Run(run.rows[start - first.seq :]))
        return found


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found
