"""Files of key hashes."""

import hashlib
from pathlib import Path

from tests.unit.settings.conftest import Load, Problems

ONE = hashlib.sha256(b"one").hexdigest()
TWO = hashlib.sha256(b"two").hexdigest()


def test_lines_of_a_file_are_keys_beside_those_in_the_configuration(
    load: Load, tmp_path: Path
) -> None:
    (tmp_path / "k.txt").write_text(f"# team\n\n{ONE} k_one web # laptop\n  {TWO}\n")
    own = hashlib.sha256(b"own").hexdigest()
    settings = load(f"customers: {{demo: {{keys: [{{sha256: {own}}}], key_files: [k.txt]}}}}\n")
    keys = settings.customers["demo"].keys
    assert [(key.sha256, key.id, key.project) for key in keys] == [
        (own, None, None),
        (ONE, "k_one", "web"),
        (TWO, None, None),
    ]


def test_a_mistake_is_told_with_the_line_in_its_own_file(
    problems: Problems, tmp_path: Path
) -> None:
    (tmp_path / "k.txt").write_text(f"{ONE}\n{TWO} k_2\n  {ONE} k_3\n")
    (problem,) = problems("customers: {demo: {key_files: [k.txt]}}\n")
    assert (Path(problem.file).name, problem.line, problem.column) == ("k.txt", 3, 3)
    assert "already belongs to 'demo'" in problem.message


def test_customers_of_another_shape_are_left_to_the_validation(problems: Problems) -> None:
    for wrong in ("customers: x", "customers: {demo: x}", "customers: {demo: {key_files: x}}"):
        assert len(problems(wrong)) == 1, wrong
    assert len(problems("customers: {demo: {keys: x, key_files: [k.txt]}}")) == 1
