"""An interpreter says how it was built; an optimised one is preferred, then the newest."""

import sys
from pathlib import Path

import pytest

from loadtest import interpreters
from loadtest.bench.report import interpreter_warning
from loadtest.interpreters import Interpreter, best, probe

HERE = Path(sys.executable)
PLAIN = Interpreter(HERE, (3, 13, 0), pgo=False, lto=False)
DEBIAN = Interpreter(Path("/d"), (3, 11, 2), pgo=False, lto=False, debian=True)
UV = Interpreter(Path("/u"), (3, 12, 9), pgo=True, lto=True)


def test_this_interpreter_says_its_version() -> None:
    found = probe(HERE)
    assert found is not None
    assert found.version == sys.version_info[:3]
    assert str(found).startswith(f"CPython {'.'.join(map(str, sys.version_info[:3]))} (")


def test_a_program_that_is_no_interpreter_says_nothing(tmp_path: Path) -> None:
    assert probe(Path("/bin/true")) is None
    assert probe(tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("interpreter", "optimised"),
    [
        (PLAIN, False),
        (DEBIAN, True),
        (UV, True),
        (Interpreter(HERE, (3, 12, 0), pgo=True, lto=False), False),
        (Interpreter(HERE, (3, 12, 0), pgo=True, lto=True, debug=True), False),
    ],
)
def test_optimised_needs_pgo_and_lto_and_no_debugging(
    interpreter: Interpreter, optimised: bool
) -> None:
    assert interpreter.optimised is optimised


@pytest.mark.parametrize(
    ("found", "chosen"), [((PLAIN, DEBIAN, UV), UV), ((PLAIN, DEBIAN), DEBIAN), ((PLAIN,), PLAIN)]
)
def test_an_optimised_interpreter_is_preferred_then_the_newest(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: tuple[Interpreter, ...],
    chosen: Interpreter,
) -> None:
    places = [HERE]
    for number in range(len(found) - 1):
        places.append(tmp_path / str(number))
        places[-1].touch()
    by_path = {place.resolve(): one for place, one in zip(places, found, strict=True)}
    monkeypatch.setattr(interpreters, "candidates", lambda: iter(places))
    monkeypatch.setattr(interpreters, "probe", by_path.get)
    assert best() is chosen


def test_the_report_warns_of_unequal_and_of_plain_interpreters() -> None:
    assert interpreter_warning([UV, UV]) == ""
    assert "different interpreters" in interpreter_warning([UV, DEBIAN])
    assert "slower" in interpreter_warning([PLAIN])
    assert interpreter_warning([]) == ""
