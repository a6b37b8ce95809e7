"""The generator changes what it says, the list is read as it is written, and a sample of the scripts'
mutants is noticed by the ledger's tests.

CREDITGATE_MUTANTS says how many the sample has; `make mutants` judges all.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.ledger.client.scripts import lua_folder
from tests.mutants import rests, survivors
from tests.mutants.mutate import mutants_of, read_scripts
from tests.mutants.tokens import statements_of, tokens_of

ROOT = Path(__file__).parents[2]


def changed(line: str) -> list[str]:
    """Every mutant of one line."""
    return [mutant.after for mutant in mutants_of({"x.lua": line + "\n"})]


@pytest.mark.parametrize(
    ("line", "mutants"),
    [
        ("if a < b then return end", ["if a <= b then return end", "if a >= b then return end"]),
        ("if a == b then return end", ["if a ~= b then return end"]),
        ("local a = b and not c", ["local a = b or not c", "local a = b and c"]),
        ("local a = 7", ["local a = 6", "local a = 8"]),
        ("local a = 0", ["local a = (-1)", "local a = 1"]),
        ("local a = 0.5", ["local a = (-0.5)", "local a = 1.5"]),
        ("local a = '\\0'", []),
        ("return -a - b", ["return -a + b"]),
        ("f(a.b, 'x')", ["do end"]),
        ("a[b] = c", ["do end"]),
        ("a, b.c = d, e(f)", ["do end", "a = d", "b.c = e(f)"]),
        ("local a = 'a = 1' -- b = 2", []),
        ("call('MSET', KEYS[x], a, KEYS[y], b)",
         ["call('MSET', KEYS[x], a)", "call('MSET', KEYS[y], b)", "do end"]),
        ("store({ KEYS[x], f(a), KEYS[y], b }, c)",
         ["do end", "store({ KEYS[x], f(a) }, c)", "store({ KEYS[y], b }, c)"]),
    ],
)  # fmt: skip
def test_each_place_is_changed_in_each_way(line: str, mutants: list[str]) -> None:
    assert sorted(changed(line)) == sorted(mutants)


def test_statements_end_where_the_next_begins() -> None:
    source = "local x = f(1)\nx[1], y = a\n  + b, c or d\ng(x)\nif x then y = { 1 } end\nz.w = #x"
    statements = statements_of(tokens_of(source))
    assert [source[one.start : one.end] for one in statements] == [
        "x[1], y = a\n  + b, c or d", "g(x)", "y = { 1 }", "z.w = #x",
    ]  # fmt: skip


@pytest.mark.parametrize("source", ["x = 0x10", "x = 1e5", "x = [[y]]", "--[[ x ]]", "x = 'a\\n'"])
def test_lua_that_is_not_known_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        tokens_of(source)


def test_every_word_of_the_scripts_is_a_token() -> None:
    for file, source in read_scripts(lua_folder()).items():
        code = "\n".join(
            line.partition(" --")[0]
            for line in source.splitlines()
            if not line.startswith(("--", "#!"))
        )
        assert "".join(token.text for token in tokens_of(source)) == "".join(code.split()), file


def test_mutants_differ_in_name_and_digest_and_are_the_same_each_time() -> None:
    mutants = mutants_of(read_scripts(lua_folder()))
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    assert len({mutant.digest for mutant in mutants}) == len(mutants)
    assert mutants == mutants_of(read_scripts(lua_folder()))


def test_a_comment_changes_no_digest_and_a_word_changes_all() -> None:
    digests = [
        {mutant.digest for mutant in mutants_of({"x.lua": source})}
        for source in ("a = 1\n", "-- said\n\na = 1 -- more\n", "b = 1\n")
    ]
    assert digests[0] == digests[1]
    assert digests[0].isdisjoint(digests[2])


def test_a_change_is_forgotten_only_where_it_can_reach() -> None:
    sources = read_scripts(lua_folder())

    def forgotten(file: str, words: str, instead: str) -> set[str]:
        assert sources[file].count(words) >= 1
        changed = {**sources, file: sources[file].replace(words, instead)}
        digests = {mutant.name: mutant.digest for mutant in mutants_of(changed)}
        before = mutants_of(sources)
        return {m.file for m in before if digests.get(m.name) not in (None, m.digest)}

    assert forgotten("void.lua", "terms[1]", "terms[2]") >= {"void.lua", "_grants.lua"}
    # of what a late settle alone uses, and of a bound that allowances and their repair have
    late = forgotten("_limits.lua", "local n = e[E_LIMITS]", "local n = 1 * e[E_LIMITS]")
    assert {"settle.lua"} <= late <= {f for f in sources if f == "settle.lua" or f[0] == "_"}
    bound = forgotten("_records.lua", "MAX_ALLOWANCES = 16", "MAX_ALLOWANCES = 17")
    assert bound >= {"allowance.lua", "reapply.lua"}
    assert not any(f[0] != "_" for f in bound - {"allowance.lua", "reapply.lua"})
    assert forgotten("_signals.lua", "-- What a wallet", "-- All that a wallet") == set()


def test_a_verdict_rests_on_what_a_test_imports(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    files = {
        "one": "from tests import two",
        "two": "import os, tests.three",
        "three": "",
        "four": "",
    }
    for name, text in files.items():
        (tmp_path / "tests" / f"{name}.py").write_text(text)
    digests = [rests.digest(tmp_path, ("tests/one.py",))]
    for name in ("four", "three", "two", "one"):
        (tmp_path / "tests" / f"{name}.py").write_text(files[name] + "\n")
        rests.imported.cache_clear()
        digests.append(rests.digest(tmp_path, ("tests/one.py",)))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_the_list_is_read_as_it_is_written() -> None:
    names = [("a.lua", "x = 1", "x = 2", 1), ("a.lua", "x = 1", "do end", 2)]
    text = "Prose.\n\n" + survivors.entries(names) + "\n  because so\n"
    assert survivors.read_list(text) == dict.fromkeys(names, "so")


@pytest.mark.parametrize(
    "text", ["a.lua: x\n  -> y", "a.lua: x\n  -> y\nb.lua: z", "a.lua: x\n  -> y\n because so"]
)
def test_an_entry_without_a_reason_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        survivors.read_list(text)


def test_the_list_names_mutants_that_there_are() -> None:
    names = {mutant.name for mutant in mutants_of(read_scripts(lua_folder()))}
    listed = survivors.read_list(survivors.LIST.read_text())
    assert set(listed) <= names


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_sample_of_mutants_is_noticed_but_for_those_listed(tmp_path: Path) -> None:
    size = os.environ.get("CREDITGATE_MUTANTS", "30")
    run = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "--sample", size, "--jobs", "1", "--output", tmp_path],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "report.json").exists()
