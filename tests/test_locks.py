"""Each lock is the complete closure of what it pins, so it installs without a resolver.

uv resolves the pins of a lock as if they were all that is asked for. A requirement that no pin
meets, an extra that a pin leaves out, or a marker that leaves a platform without its pin, comes
out as a line that the lock does not have.
"""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UV = Path(sysconfig.get_path("scripts")) / "uv"
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))


def pins(lock: str) -> list[str]:
    """The pinned requirements of a lock, without hashes."""
    lines = (line.removesuffix("\\").strip() for line in lock.splitlines())
    return sorted(line for line in lines if line and not line.startswith(("#", "--hash")))


def resolve(pinned: list[str], folder: Path) -> list[str]:
    """What a resolver takes to install these pins, for every platform and Python."""
    asked, resolved = folder / "asked.txt", folder / "resolved.txt"
    asked.write_text("\n".join(pinned))
    options = (
        "--quiet --universal --no-strip-extras --no-header --no-annotate --python-version 3.11"
    )
    command: list[str | Path] = [UV, "pip", "compile", *options.split(), asked, "-o", resolved]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pins(resolved.read_text())


def test_every_lock_is_found() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert set(LOCKS) == set(re.findall(r"-o (requirements\S*\.lock)", makefile))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_all_that_its_pins_require(name: str, tmp_path: Path) -> None:
    pinned = pins((ROOT / name).read_text())
    assert resolve(pinned, tmp_path) == pinned


@pytest.mark.parametrize(
    ("name", "pin", "without"),
    [
        ("requirements-dev.lock", "google-auth[requests]", "google-auth"),
        ("requirements-litellm.lock", "pydantic[email]", "pydantic"),
        ("requirements-hardcap.lock", "redis[hiredis]", "redis"),
        ("requirements.lock", "aiosignal", None),
    ],
)
def test_a_lock_without_a_pin_or_an_extra_is_not_closed(
    name: str, pin: str, without: str | None, tmp_path: Path
) -> None:
    lock = pins((ROOT / name).read_text())
    broken = [
        line.replace(pin, without) if without else ""
        for line in lock
        if line.startswith(f"{pin}==")
    ]
    assert len(broken) == 1, f"{pin} is pinned once"
    rest = [line for line in lock if not line.startswith(f"{pin}==")]
    pinned = sorted([*rest, *filter(None, broken)])
    assert resolve(pinned, tmp_path) != pinned
