"""The scripts' headers say what the scripts do, and the loader links what they use."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from gateway.domain.money import MAX_AMOUNT_NANO, MAX_QUANTITY, MAX_RATE_PICO, PICO_PER_NANO
from gateway.domain.reservation import (
    IDEMPOTENCY_TTL_MS,
    MAX_USES,
    SETTLE_MAX_AGE_MS,
    TOMBSTONE_TTL_MS,
)
from gateway.ledger.client.scripts import PRELUDE, Prelude, load_scripts, lua_folder, read_prelude
from gateway.ledger.corrections import Corrections
from gateway.ledger.exporters import Leases
from gateway.ledger.notes import Notes
from gateway.ledger.repair import Repair
from gateway.ledger.reservations import Reservations
from gateway.ledger.shards import Shards
from gateway.ledger.wallets import Wallets

VERBS = [
    "account",
    "ack",
    "adjust",
    "afford",
    "allowance",
    "expire",
    "extend",
    "freeze",
    "grant",
    "lease",
    "loosen",
    "note",
    "quote",
    "rate",
    "reapply",
    "refund",
    "release",
    "reopen",
    "reserve",
    "settle",
    "shut",
    "signals",
    "sweep",
    "void",
]
READ_ONLY = {"quote", "rate", "afford"}
ALLOW_OOM = set(VERBS) - READ_ONLY - {"reserve"}


@dataclass
class Header:
    """What the comments at the top of a script promise."""

    first_line: str
    purpose: str
    keys: list[str]
    args: list[str]
    words: list[str]
    writes: set[str]
    body: str


def parse(name: str) -> Header:
    first_line, *lines = (lua_folder() / f"{name}.lua").read_text().splitlines()
    top = [line[2:].removeprefix(" ") for line in lines if line.startswith("--")]
    end = next(at for at, line in enumerate(lines) if not line.startswith("--"))
    top, body = [line[2:].removeprefix(" ") for line in lines[:end]], "\n".join(lines[end:])
    text = "\n".join(top)
    words: list[str] = []
    for line in (
        text.partition("replies, the first that applies:\n")[2]
        .partition("\nwrites:")[0]
        .splitlines()
    ):
        found = re.match(r"  ((?:[a-z_]+, )*[a-z_]+)(?::|  |$)", line)
        if found:
            words += found[1].split(", ")
    return Header(
        first_line=first_line,
        purpose=top[0].partition(": ")[2],
        keys=re.findall(r"^KEYS\[\d+\] (\w+)", text, re.M),
        args=re.findall(r"^ARGV\[\d+\] ([\w ]+?)(?:  |$)", text, re.M),
        words=words,
        writes=set(re.findall(r"[a-z]+", text.partition("\nwrites:")[2].partition(".")[0])),
        body=body,
    )


def prelude_answers() -> dict[str, set[str]]:
    """Which words the prelude's functions can answer, by their `answers:` lines."""
    answers = {}
    for block in read_prelude(lua_folder()).split("\n\n"):
        said = re.search(r"^-- answers: (.*)$", block, re.M)
        name = re.search(r"^local function (\w+)", block, re.M)
        if name:
            returned = set(re.findall(r"(?:return nil, |return nil, \{ )'([a-z_]+)'", block))
            returned |= {
                word for word in re.findall(r"'([a-z_]+)'", block) if "return nil, refusal" in block
            }
            returned |= (
                {"went_back", "unknown_account"}
                if "'went_back' or 'unknown_account'" in block
                else set()
            )
            if said:
                answers[name[1]] = set(said[1].split(", "))
                assert answers[name[1]] == returned, name[1]
            else:
                assert not re.search(r"return nil, '", block), (
                    f"{name[1]} refuses without saying so"
                )
    return answers


@pytest.mark.parametrize("name", VERBS)
def test_header_lists_the_keys_and_arguments_that_the_script_uses(name: str) -> None:
    header = parse(name)
    used = {int(number) for number in re.findall(r"KEYS\[(\d+)\]", header.body)}
    spread = re.search(r"read\(|KEYS\[3 \+ i\]", header.body)  # the rest of KEYS
    assert used <= set(range(1, len(header.keys) + 1))
    assert spread or used == set(range(1, len(header.keys) + 1))
    given = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", header.body)}
    assert given == set(range(1, len(header.args) + 1))
    assert header.purpose


@pytest.mark.parametrize("name", VERBS)
def test_header_lists_the_words_that_the_script_answers(name: str) -> None:
    header = parse(name)
    answers = prelude_answers()
    said = set(re.findall(r"return \{ '([a-z_]+)'", header.body))
    said |= set(
        re.findall(r"return \{ same and '([a-z_]+)' or '([a-z_]+)'", header.body)
        and ["unchanged", "exists_with_different_parameters"]
    )
    said |= set(re.findall(r"word = '([a-z_]+)'", header.body))
    if "return { OUTCOMES[" in header.body or "return { word, e[" in header.body:
        said |= {"settled", "released", "expired", "settled_late"}
    for function, words in answers.items():
        if re.search(rf"\b{function}\(", header.body):
            said |= words
    if "return { outcome," in header.body:
        said |= set(re.findall(r"outcome, kind, amount = '([a-z_]+)'", header.body))
    missing, invented = said - set(header.words), set(header.words) - said
    # What a script says differently, or cannot meet, of what its helpers answer.
    excused = {
        "account": {"unknown_account"},
        "note": {"unknown_account"},
        "settle": {"expired"},
        "expire": {"unknown_account", "bad_rate", "bad_quantity", "unknown_shape", "too_large"},
    }.get(name, set())
    assert missing <= excused, missing
    assert invented <= {"unknown_account"}, invented
    assert len(header.words) == len(set(header.words))


@pytest.mark.parametrize("name", VERBS)
def test_header_lists_the_keys_that_the_script_writes(name: str) -> None:
    header = parse(name)
    for path in paths(header):
        writing = re.split(r"^ *-- write\n", path, maxsplit=1, flags=re.MULTILINE)[1:]
        written = {header.keys[int(n) - 1] for n in re.findall(r"KEYS\[(\d+)\]", "".join(writing))}
        assert written <= header.writes | {"out"}, written - header.writes
        assert written or name in READ_ONLY


@pytest.mark.parametrize("name", VERBS)
def test_nothing_is_written_before_the_decision(name: str) -> None:
    for path in paths(parse(name)):
        body = re.split(r"^ *-- write\n", path, maxsplit=1, flags=re.MULTILINE)[0]
        calls = set(re.findall(r"call\('([A-Z]+)'", body))
        assert calls <= {
            "GET",
            "HGET",
            "ZCARD",
            "SCARD",
            "XLEN",
            "HLEN",
            "XRANGE",
            "ZREM",
            "HGETALL",
        }
        assert "ZREM" not in calls or name == "expire"  # strikes off a deadline without a hold
        assert "emit(" not in body
        assert "store(" not in body


def paths(header: Header) -> list[str]:
    """The straight path for what is plain, if there is one, and the general path."""
    return header.body.split("\n-- general\n")


@pytest.mark.parametrize("name", VERBS)
def test_scripts_that_must_go_on_run_when_memory_is_full(name: str) -> None:
    first_line = load_scripts()[name].source.decode().partition("\n")[0]
    assert ("flags=allow-oom" in first_line) == (name in ALLOW_OOM)
    assert first_line.startswith("#!lua")
    assert load_scripts()[name].source.count(b"#!") == 1


def test_every_verb_is_a_method_of_the_same_name() -> None:
    assert sorted(load_scripts()) == VERBS
    owners = (Reservations, Wallets, Corrections, Repair, Notes, Shards, Leases)
    assert all(sum(hasattr(owner, name) for owner in owners) == 1 for name in VERBS)


def test_bounds_are_the_same_in_lua_and_python() -> None:
    source = read_prelude(lua_folder())

    def value(name: str) -> int:
        found = re.search(rf"^local {name} = (\d+)", source, re.M)
        assert found is not None
        return int(found[1])

    assert value("MAX_AMOUNT") == MAX_AMOUNT_NANO < 1 << 53
    assert value("MAX_QUANTITY") == MAX_QUANTITY
    assert value("MAX_RATE") == MAX_RATE_PICO // PICO_PER_NANO
    assert value("MAX_USES") == MAX_USES
    assert value("TOMBSTONE_TTL_MS") == TOMBSTONE_TTL_MS
    assert value("SETTLE_MAX_AGE_MS") == SETTLE_MAX_AGE_MS
    assert value("IDEMPOTENCY_TTL_MS") == IDEMPOTENCY_TTL_MS


PRELUDE_OF_TESTS = """-- Head.

-- One.
local LOW, HIGH = 1, 20 -- bounds
local WORD, floor = 'w', math.floor

local function first(a)
  return LOW + 10 * a[HIGH]
end

local function base(x)
  return floor(x) .. LOW
end

-- Calls base.
local function twice(x)
  return base(base(x)) .. ''
end

local function seldom(x)
  if x then
    -- uses: twice
    return twice(x)
  end
end
"""


def linked(*lines: str) -> list[str]:
    """What stands behind the first line of a script of these lines."""
    return Prelude(PRELUDE_OF_TESTS).link("\n".join(["#!lua", *lines])).splitlines()[1:]


TWICE = ["local function twice(x)", "  return base(base(x)) .. ''", "end"]
BASE = ["local function base(x)", "  return math.floor(x) .. 1", "end"]


def test_link_includes_what_is_used_with_what_it_calls_and_folds_constants() -> None:
    assert linked("-- uses: twice", "-- a comment", "return { WORD, twice(HIGH) }") == [
        *BASE,
        *TWICE,
        "return { 'w', twice(20) }",
    ]


def test_link_puts_the_expression_of_an_accessor_in_place_of_its_call() -> None:
    assert linked("return first(record) + 1") == ["return (1 + 10 * record[20]) + 1"]
    with pytest.raises(AssertionError, match="an accessor takes one name"):
        linked("return first(records[1])")


def test_what_is_used_in_a_branch_is_defined_there_and_known_to_its_end() -> None:
    assert linked(
        "if a then", "  -- uses: twice", "  b = twice(a)", "  -- uses: base", "end", "-- uses: base"
    ) == ["if a then", *BASE, *TWICE, "  b = twice(a)", "end", *BASE]


def test_a_function_includes_what_it_uses_in_its_own_branch() -> None:
    assert linked("-- uses: base, seldom") == [
        *BASE,
        "local function seldom(x)",
        "  if x then",
        *TWICE,
        "    return twice(x)",
        "  end",
        "end",
    ]


def test_amounts_never_pass_through_text() -> None:
    for name in [*VERBS, *(f"_{part}" for part in PRELUDE)]:
        source = (lua_folder() / f"{name}.lua").read_text()
        code = "\n".join(line.partition("--")[0] for line in source.splitlines())
        assert "tostring" not in code
        assert "tonumber" not in code
        assert "cjson" not in code


def test_scripts_load_on_valkey(valkey_socket: Path) -> None:
    with redis.Redis(unix_socket_path=str(valkey_socket)) as client:
        for script in load_scripts().values():
            assert client.script_load(script.source) == script.sha.decode()
