"""`make mutants`: do the tests notice when a script is wrong?

Ends with 1 when fewer than 95 % of the mutants are killed, or one survives that survivors.txt does
not list. A sample is judged by the list alone. Results are kept in `build/mutants/`, by the digests
of mutant and tests: what was judged is not judged again.
"""

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from gateway.ledger.client.scripts import lua_folder
from tests.mutants import forks, rests, survivors
from tests.mutants.mutate import Mutant, mutants_of, read_scripts

LEAST_SHARE = 0.95
ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "build" / "mutants"
ALWAYS = ("tests/conftest.py",)
"""What every test rests on, beside what it imports."""


def main() -> int:
    """Parse, judge, report."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument(
        "--sample", type=int, metavar="N", help="judge N, by chance, of those not listed"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument(
        "--file", metavar="FILE.lua", nargs="+", help="mutants of these files alone"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--fresh", action="store_true", help="judge again what is known")
    parser.add_argument(
        "--believe-list",
        action="store_true",
        help="count what is listed as surviving, unseen: it is what takes longest",
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of results")
    options = parser.parse_args()
    sources = read_scripts(lua_folder())
    mutants = mutants_of(sources)
    names = {mutant.name for mutant in mutants}
    if options.file:
        mutants = [mutant for mutant in mutants if mutant.file in options.file]
    listed = survivors.read_list(survivors.LIST.read_text())
    if options.sample:
        mutants = [mutant for mutant in mutants if mutant.name not in listed]
        mutants = random.Random(options.seed).sample(mutants, min(options.sample, len(mutants)))
    results = Results(options.output / "results.json", fresh=options.fresh)
    believed = listed.keys() if options.believe_list else frozenset()
    since = time.monotonic()
    try:
        judged = [mutant for mutant in mutants if mutant.name not in believed]
        judge(sources, sorted(judged, key=lambda m: m.name in listed), results, options.jobs)
    except forks.TestsDoNotPass as error:
        print(error, file=sys.stderr)
        return 2
    killers = {m.name: None if m.name in believed else results.killer(m) for m in mutants}
    report = Report(mutants, killers, listed, names)
    report.write(options.output / "report.json", time.monotonic() - since)
    return report.show(whole=not (options.file or options.sample))


class Results:
    """What is known of mutants, in a file, by their names.

    A kill holds while the file of the test that killed stays as it is, with all that it imports;
    that one survives, while all of them do. So a new test is asked only of the survivors.
    """

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        walk = f"{forks.STEPS}:{forks.SEED}"  # what is edited while a run goes on is not noticed
        self._judges = {
            name: f"{rests.digest(ROOT, (name, *ALWAYS))}:{walk}" for name in forks.TEST_FILES
        }
        self._all_judges = f"{rests.digest(ROOT, (*forks.TEST_FILES, *ALWAYS))}:{walk}"
        self._known: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._known = json.loads(path.read_text())
        self._stale = fresh

    def killer(self, mutant: Mutant) -> str | None:
        """The test that killed it; None of a survivor. KeyError of one not judged yet."""
        known: str | None = self._known[_key(mutant)]["killer"]
        return known

    def waiting(self, mutants: list[Mutant]) -> list[Mutant]:
        """Those that are not judged by these tests."""
        return [mutant for mutant in mutants if self._stale or not self._holds(mutant)]

    def hint(self, mutant: Mutant) -> str | None:
        """Which test killed it, whatever the scripts and tests were then."""
        hint: str | None = self._known.get(_key(mutant), {}).get("killer")
        return hint

    def note(self, mutant: Mutant, verdict: forks.Verdict) -> None:
        """Remember a verdict."""
        self._known[_key(mutant)] = {
            "digest": mutant.digest,
            "killer": verdict.killer,
            "by": self._by(verdict.killer),
        }

    def save(self) -> None:
        """Write the file anew, at once."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".part")
        partial.write_text(json.dumps(self._known))
        partial.replace(self._path)

    def _holds(self, mutant: Mutant) -> bool:
        known = self._known.get(_key(mutant))
        return (
            known is not None
            and known["digest"] == mutant.digest
            and known["by"] == self._by(known["killer"])
        )

    def _by(self, killer: str | None) -> str:
        """Digest of what a verdict hangs on, beside the scripts."""
        return self._judges.get((killer or "").partition("::")[0], self._all_judges)


def _key(mutant: Mutant) -> str:
    return "\n".join(map(str, mutant.name))


def judge(sources: dict[str, str], mutants: list[Mutant], results: Results, jobs: int) -> None:
    """Run the tests on those that are not known yet, with a bar."""
    waiting = results.waiting(mutants)
    if not waiting:
        return
    bar = Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), auto_refresh=False,
    )  # fmt: skip
    task = bar.add_task("mutants", total=len(waiting))
    survived, judged, saved_at = 0, 0, time.monotonic()

    def note(mutant: Mutant, verdict: forks.Verdict) -> None:
        nonlocal survived, judged, saved_at
        results.note(mutant, verdict)
        judged += 1
        survived += verdict.killer is None
        bar.update(task, advance=1, description=f"mutants, {survived} survive")
        now = time.monotonic()
        if now - saved_at > 5:  # what an interrupted run has judged is kept
            results.save()
            saved_at = now
        bar.refresh()

    try:
        with bar:
            forks.run(sources, waiting, jobs=jobs, hint=results.hint, report=note)
    finally:
        if judged:
            results.save()


class Report:
    """Who was killed, who survived, and who of them may."""

    def __init__(
        self,
        mutants: list[Mutant],
        killers: dict[survivors.Name, str | None],
        listed: dict[survivors.Name, str],
        names: set[survivors.Name],
    ) -> None:
        self._mutants = mutants
        self._killers = killers
        self._listed = listed
        self._survivors = [m.name for m in mutants if self._killers[m.name] is None]
        self._unlisted = [name for name in self._survivors if name not in listed]
        self._gone = [
            name for name in listed if name not in names or self._killers.get(name) is not None
        ]

    @property
    def share(self) -> float:
        """Killed of all."""
        return 1 - len(self._survivors) / max(1, len(self._mutants))

    def write(self, path: Path, took_s: float) -> None:
        """As JSON."""
        document = {
            "mutants": len(self._mutants),
            "killed": len(self._mutants) - len(self._survivors),
            "share": round(self.share, 4),
            "took_s": round(took_s, 1),
            "survivors": [
                {
                    "file": mutant.file,
                    "line": mutant.line_no,
                    "before": mutant.before,
                    "after": mutant.after,
                    "nth": mutant.nth,
                    "reason": self._listed.get(mutant.name),
                }
                for mutant in self._mutants
                if self._killers[mutant.name] is None
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    def show(self, *, whole: bool) -> int:
        """As a table, and what is wrong; the exit code."""
        console = Console(soft_wrap=True)
        table = Table("script", "mutants", "killed", "survive", "share")
        count = Counter(mutant.file for mutant in self._mutants)
        alive = Counter(file for file, *_ in self._survivors)
        for file, n in [*sorted(count.items()), ("all", len(self._mutants))]:
            left = alive[file] if file in count else len(self._survivors)
            table.add_row(file, str(n), str(n - left), str(left), f"{1 - left / max(1, n):.1%}")
        console.print(table)
        for name in self._gone:
            console.print(f"listed, but no survivor any more: {name}", markup=False)
        if self._unlisted:
            console.print(f"{len(self._unlisted)} survive that survivors.txt does not list:")
            console.print(survivors.entries(self._unlisted), markup=False, highlight=False)
            return 1
        if whole and self.share < LEAST_SHARE:
            console.print(f"fewer than {LEAST_SHARE:.0%} are killed")
            return 1
        return 0


if __name__ == "__main__":
    sys.exit(main())
