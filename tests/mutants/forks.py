"""Runs the ledger's tests on mutants: collected once, then a fork of this process for each.

Invariants: a fork leads a process group of its own, in which its server runs, and writes into a folder of
its own; both go when it ends, in time or not. No production code knows: the loader is pointed to
a folder of changed scripts in the fork alone. A mutant is killed by the first test that fails; one
that never ends, by what its processes may use.
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.ledger.client import scripts
from tests.mutants.mutate import Mutant

TESTS = (
    "tests/ledger/test_exact.py",
    "tests/ledger/test_once.py",
    "tests/ledger/test_windows.py",
    "tests/ledger/test_rolling.py",
    "tests/ledger/test_edges.py",
    "tests/ledger/test_leases.py",
    "tests/ledger/test_straight_path.py",
    "tests/ledger/test_boundaries_rating.py",
    "tests/ledger/test_boundaries_holds.py",
    "tests/ledger/test_boundaries_signals.py",
    "tests/ledger/test_boundaries_wallets.py",
    "tests/ledger/test_exact_terms.py",
    "tests/ledger/client/test_scripts.py::test_bounds_are_the_same_in_lua_and_python",
    "tests/ledger/test_operations.py",
    "tests/ledger/test_words.py",
    "tests/ledger/test_repair.py",
    "tests/ledger/test_notes.py",
    "tests/ledger/test_expiry.py",
    "tests/ledger/test_sweeps.py",
    "tests/ledger/test_calendar.py",
    "tests/ledger/test_corrections.py",
    "tests/ledger/test_afford.py",
    "tests/ledger/test_service_tiers.py",
    "tests/ledger/test_signals.py",
    "tests/ledger/test_rating.py",
    "tests/ledger/test_rate.py",
    "tests/ledger/test_oracle.py",
)
"""What must notice a mutant, in the order in which it is asked of the first ones."""
TEST_FILES = tuple(dict.fromkeys(test.partition("::")[0] for test in TESTS))
STEPS = 400
"""Of the random walk; those that it finds, it mostly finds in the first hundred."""
SEED = 21
"""A walk that meets every operation and every kind of event in so few steps."""
MEMORY_BYTES = 2 << 30
PROCESSOR_S = 40
"""What the tests, and their server, may each use of a processor: many times what they need, and the
same however busy the machine is. A script that never ends loses its server so, and fails."""
LONGEST_S = 900.0
BY_TIME = "time"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant: the test that failed, `time`, or None when it survived."""

    killer: str | None
    took_s: float
    tests_s: Mapping[str, float]
    """How long each test took, where all have run."""


class TestsDoNotPass(Exception):
    """The scripts as they stand fail a test: nothing can be said of mutants."""


Report = Callable[[Mutant, Verdict], None]
Hint = Callable[[Mutant], str | None]


class Forks:
    """A pytest plugin in place of the loop over the tests."""

    def __init__(
        self,
        sources: Mapping[str, str],
        mutants: Iterable[Mutant],
        *,
        jobs: int,
        hint: Hint,
        report: Report,
    ) -> None:
        """hint: which test killed a mutant before; it is asked first.
        report: called with each verdict, as it comes."""
        self._sources = sources
        self._waiting = deque(mutants)
        self._jobs = jobs
        self._hint = hint
        self._report = report
        self._kills: dict[str, list[tuple[int, str]]] = {}
        for mutant in self._waiting:
            self._note_kill(mutant, hint(mutant))
        self._tests_s: Mapping[str, float] = {}
        self.failed: str | None = None
        """The test that fails without a mutant."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Everything, at the place where pytest would run the tests."""
        verdict = _Fork(session.items, self._sources).wait()
        if verdict.killer is not None:
            self.failed = verdict.killer
            return True
        self._tests_s = verdict.tests_s
        running: list[tuple[Mutant, _Fork]] = []
        try:
            while self._waiting or running:
                while self._waiting and len(running) < self._jobs:
                    mutant = self._waiting.popleft()
                    changed = {**self._sources, mutant.file: mutant.text}
                    running.append((mutant, _Fork(self._ordered(session.items, mutant), changed)))
                running = [each for each in running if not self._ended(*each)]
                time.sleep(0.005)
        finally:
            for _, fork in running:
                fork.stop()
        return True

    def _ended(self, mutant: Mutant, fork: "_Fork") -> bool:
        verdict = fork.poll()
        if verdict is None:
            return False
        self._note_kill(mutant, verdict.killer)
        self._report(mutant, verdict)
        return True

    def _note_kill(self, mutant: Mutant, killer: str | None) -> None:
        if killer is not None:
            self._kills.setdefault(mutant.file, []).append((mutant.line_no, killer))

    def _ordered(self, items: Sequence[pytest.Item], mutant: Mutant) -> list[pytest.Item]:
        """First what has killed this one before; then by what it has killed near by in the same
        file, for each second that it takes; what has killed nothing, in the order of TESTS."""
        hint, near = self._hint(mutant), defaultdict[str, float](float)
        for line_no, killer in self._kills.get(mutant.file, ()):
            near[killer] += 1 / (1 + abs(line_no - mutant.line_no))

        def promise(item: pytest.Item) -> float:
            return near[item.nodeid] / self._tests_s.get(item.nodeid, 1.0)

        return sorted(items, key=lambda item: (item.nodeid != hint, -promise(item)))


class _Fork:
    """One run of the tests, in a child of this process."""

    def __init__(self, items: Sequence[pytest.Item], sources: Mapping[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="m-"))
        self._since = time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            status = 70
            try:
                status = _run(items, sources, self._folder)
            finally:
                os._exit(status)
        with suppress(ProcessLookupError, PermissionError):  # whoever comes first
            os.setpgid(self._pid, self._pid)

    def poll(self) -> Verdict | None:
        """The verdict once there is one; stops the run when its time is over."""
        took_s = time.monotonic() - self._since
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        late = pid == 0 and took_s > LONGEST_S
        if pid == 0 and not late:
            return None
        self._kill()
        if late:
            os.waitpid(self._pid, 0)
        said = self._folder / "killer"
        killer = BY_TIME if late else said.read_text() if said.exists() else None
        if killer is None and status != 0:
            killer = f"exit {os.waitstatus_to_exitcode(status)}"
        tests_s = json.loads((self._folder / "took").read_text()) if killer is None else {}
        shutil.rmtree(self._folder, ignore_errors=True)
        return Verdict(killer, took_s, tests_s)

    def stop(self) -> None:
        """End the run without a verdict."""
        self._kill()
        with suppress(ChildProcessError):  # it has been waited for
            os.waitpid(self._pid, 0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self) -> None:
        """The whole group: its server too."""
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def wait(self) -> Verdict:
        """The verdict, however long it takes up to the bound."""
        while (verdict := self.poll()) is None:
            time.sleep(0.01)
        return verdict


def _run(items: Sequence[pytest.Item], sources: Mapping[str, str], folder: Path) -> int:
    """In the child: the tests on these scripts, until one fails."""
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
    for name, source in sources.items():
        (folder / name).write_text(source)
    for module in (scripts, sys.modules.get("tests.ledger.client.test_scripts")):
        if module is not None:
            vars(module)["lua_folder"] = lambda: folder
    scripts.load_scripts.cache_clear()
    session = items[0].session
    session.config.option.tbstyle = "native"  # nobody reads it: the cheapest
    took_s = {}
    for at, item in enumerate(items):
        following = items[at + 1] if at + 1 < len(items) else None
        since = time.monotonic()
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        took_s[item.nodeid] = time.monotonic() - since
        if session.testsfailed:
            (folder / "killer").write_text(item.nodeid)
            return 1
    (folder / "took").write_text(json.dumps(took_s))
    return 0


def run(
    sources: Mapping[str, str],
    mutants: Iterable[Mutant],
    *,
    jobs: int,
    hint: Hint,
    report: Report,
) -> None:
    """Judge all mutants, and report each. Raises TestsDoNotPass."""
    os.environ.update(CREDITGATE_ORACLE_STEPS=str(STEPS), CREDITGATE_ORACLE_SEED=str(SEED))
    forks = Forks(sources, mutants, jobs=jobs, hint=hint, report=report)
    off = ("terminal", "xdist", "cacheprovider", "faulthandler", "logging")
    plain = [word for name in off for word in ("-p", f"no:{name}")]
    options = ["-o", "addopts=", "--import-mode=importlib"]  # of the terminal are the project's own
    status = pytest.main([*plain, *options, *TESTS], plugins=[forks])
    if forks.failed is not None:
        raise TestsDoNotPass(f"without any mutant fails: {forks.failed}")
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise TestsDoNotPass(f"the tests cannot be collected: pytest ended with {status!r}")
