"""References inside a scalar."""

from pathlib import Path

import pytest

from gateway.settings.interpolate import MAX_FILE_BYTES, Interpolator
from gateway.settings.problems import Wrong


def fill(text: str, folder: Path = Path("."), **environ: str) -> str:
    return Interpolator(folder, environ).fill(text)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain $HOME $5", "plain $HOME $5"),
        ("${A}", "one"),
        ("Bearer ${A}/${B}", "Bearer one/${A}"),
        ("${NONE:-fall back}", "fall back"),
        ("${NONE:-}", ""),
        ("${EMPTY:-fall back}", "fall back"),
        ("${EMPTY}", ""),
        ("$${A}", "${A}"),
        ("${A:-x}", "one"),
    ],
)
def test_references_are_filled_in_once(text: str, filled: str) -> None:
    assert fill(text, A="one", B="${A}", EMPTY="") == filled


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${1A}", "${A:+x}", "${ A }", "${file:}"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Wrong, match="not a reference"):
        fill(text, A="one")


def test_an_unset_variable_is_named() -> None:
    with pytest.raises(Wrong, match="variable NOWHERE is not set"):
        fill("${NOWHERE}")


@pytest.mark.parametrize(
    ("content", "text"), [(b"s3cret\n", "s3cret"), (b"a\nb\r\n", "a\nb"), (b"", "")]
)
def test_a_file_loses_one_last_line_break(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    interpolator = Interpolator(tmp_path, {})
    assert interpolator.fill("<${file:secret}>") == f"<{text}>"
    assert interpolator.files == [tmp_path / "secret"]


@pytest.mark.parametrize(
    ("content", "why"), [(b"\xff", "not UTF-8"), (b"x" * (MAX_FILE_BYTES + 1), "larger than")]
)
def test_a_file_that_cannot_be_a_value_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(Wrong, match=why):
        fill("${file:secret}", tmp_path)


def test_a_file_that_is_not_there_is_refused_but_watched(tmp_path: Path) -> None:
    interpolator = Interpolator(tmp_path, {})
    with pytest.raises(Wrong, match="No such file"):
        interpolator.fill("${file:secret}")
    assert interpolator.files == [tmp_path / "secret"]
