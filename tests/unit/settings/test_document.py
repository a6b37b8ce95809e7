"""YAML as values that know where they stand."""

from pathlib import Path

import pytest

from gateway.settings.document import Document
from gateway.settings.problems import Finding
from tests.unit.settings.conftest import Problems


def read(folder: Path, text: str, **environ: str) -> Document:
    file = folder / "x.yaml"
    file.write_text(text)
    return Document(file, environ)


def test_every_scalar_is_text_and_nothing_is_none(tmp_path: Path) -> None:
    document = read(tmp_path, "a: 1.10\nb: true\nc: ~\nd:\ne: 'null'\nf: 010\ng: 2027-01-01\n")
    assert document.tree == {
        "a": "1.10",
        "b": "true",
        "c": None,
        "d": None,
        "e": "null",
        "f": "010",
        "g": "2027-01-01",
    }


def test_anchors_and_merge_keys_work_and_own_keys_win(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        "base: &base {x: 1, y: 2}\nmore: &more {y: 3, z: 4}\n"
        "one: {<<: *base, y: 9}\ntwo: {<<: [*base, *more]}\nthree: *base\n",
    )
    assert document.problems == []
    assert document.tree["one"] == {"x": "1", "y": "9"}
    assert document.tree["two"] == {"x": "1", "y": "2", "z": "4"}
    assert document.tree["three"] == {"x": "1", "y": "2"}


def test_a_merge_of_something_else_is_told(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, "a: {<<: text}\n").problems
    assert "takes a mapping" in problem.message


def test_a_place_is_that_of_the_name_and_of_the_list_item(tmp_path: Path) -> None:
    document = read(tmp_path, "a:\n  b:\n    - x\n    - c: 1\n")
    places = [document.places["a", "b", 1, "c"], document.places["a", "b", 0]]
    assert [(place.line, place.column) for place in places] == [(4, 7), (3, 7)]


def test_a_finding_about_what_is_not_there_stands_at_what_is_around_it(tmp_path: Path) -> None:
    document = read(tmp_path, "a:\n  b: 1\n")
    problem = document.problem(Finding(("a", "c.d", 2), "is missing"))
    assert (problem.line, problem.column, problem.path) == (1, 1, 'a."c.d"[2]')


def test_a_key_twice_names_both_lines(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, "a:\n  b: 1\n  c: 2\n  b: 3\n").problems
    assert (problem.line, problem.path) == (4, "a")
    assert "line 2" in problem.hint


def test_a_key_that_is_no_text_is_told(tmp_path: Path) -> None:
    (problem,) = read(tmp_path, "a: {[1, 2]: 3}\n").problems
    assert "plain text" in problem.message


def test_aliases_that_explode_are_refused_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.settings.document.MAX_NODES", 10_000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    document = read(tmp_path, "\n".join(lines))
    assert any("without limit" in problem.message for problem in document.problems)
    assert len(document.problems) < 10


def test_a_merge_into_itself_is_refused(tmp_path: Path) -> None:
    document = read(tmp_path, "a: &a\n  b: 1\n  <<: *a\n")
    assert any("without limit" in problem.message for problem in document.problems)


def test_several_documents_in_one_file_are_refused(tmp_path: Path) -> None:
    assert "not valid YAML" in read(tmp_path, "a: 1\n---\nb: 2\n").problems[0].message


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\n")
    assert "UTF-8" in Document(tmp_path / "x.yaml", {}).problems[0].message
    assert "not valid YAML" in read(tmp_path, "a: \x07\n").problems[0].message


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "cannot be read" in Document(tmp_path, {}).problems[0].message


def test_a_value_is_not_said_in_a_message_when_it_was_filled_in(problems: Problems) -> None:
    (problem,) = problems('listen: {port: "8${DIGITS}"}\n', DIGITS="0x")
    assert problem.message == "'8${DIGITS}' is not a whole number"


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("models: {a: b\n", 1, "opened in line 1"),
        ("a: 1\nmodels: [1, 2", 2, "opened in line 2"),
        ("? [a\n", 1, "opened in line 1"),
        ("models: {a: [1\nb: 2\n", 2, "opened in line 1"),
        ("models:\n\ta: 1\n", 2, "not with tabs"),
        ("models: {a: ${X}, b\n", 1, "needs quotes"),
        ("a: 'open\n\n", 2, ""),
        ("a: 1\nb: \x00\n", 2, ""),
        ("a: \x85{\n", 2, ""),
        ("a: 1\n--- \nb: 2\n", 2, ""),
        ("%YAML 9.9\n---\n", 1, ""),
        ("{", 1, ""),
        ("a: *x\n", 1, ""),
    ],
)
def test_what_is_not_yaml_has_its_line_and_a_hint(
    tmp_path: Path, text: str, line: int, hint: str
) -> None:
    document = read(tmp_path, text)
    (problem,) = document.problems
    assert problem.line == line
    assert problem.message.startswith("not valid YAML: ")
    assert hint in problem.hint
    assert () in document.unread


@pytest.mark.parametrize("text", ['a: "x\\0y"\n', 'a: "${file:x\\0}"\n'])
def test_no_value_holds_a_nul(tmp_path: Path, text: str) -> None:
    (problem,) = read(tmp_path, text).problems
    assert problem.message == "the value holds a NUL character"
