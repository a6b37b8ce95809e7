"""The requests: drawn as the mix says, the same in every process; a trace as it is written."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from loadtest.faults import Dist
from loadtest.tester.deck import CARDS, Card, Key, Mix, Model, draw, of_trace, shuffled
from loadtest.tester.trace import BadTrace, read_trace

MIX = Mix(
    models=(Model("a", "openai", 3, 0.5), Model("b", "anthropic", 1, 1.0)),
    keys=(Key("k1", 9), Key("k2", 1)),
    prompt_tokens=Dist("uniform", 100, 200),
    output_tokens=Dist("fixed", 40),
    max_tokens=None,
    simulate="itl_ms=2",
)


def said(card: Card) -> Any:
    return json.loads(card.body)


def prompt(card: Card) -> str:
    text: str = said(card)["messages"][0]["content"]
    return text


def test_shares_of_models_keys_and_streams_are_those_of_the_mix() -> None:
    cards = draw(MIX, 1)
    assert len(cards) == CARDS
    ours = [card for card in cards if card.api == "openai"]
    assert len(ours) / CARDS == pytest.approx(0.75, abs=0.06)
    assert sum(card.stream for card in ours) / len(ours) == pytest.approx(0.5, abs=0.08)
    assert all(card.stream for card in cards if card.api == "anthropic")
    assert sum(card.key == "k2" for card in cards) / CARDS == pytest.approx(0.1, abs=0.04)


def test_prompts_have_the_length_drawn_and_the_simulator_is_told_the_answer_s() -> None:
    for card in draw(MIX, 1)[:50]:
        assert 400 <= len(prompt(card)) <= 800
        assert prompt(card).endswith("\nsim: tokens=40 itl_ms=2")
        assert said(card)["max_tokens"] == 40


def test_every_process_draws_the_same_deck_and_plays_it_in_an_order_of_its_own() -> None:
    cards = draw(MIX, 5)
    assert cards == draw(MIX, 5)
    assert cards != draw(MIX, 6)
    sources = [shuffled(cards, "h", None, random.Random(n)) for n in (1, 2)]
    played = [[source(n) for n in range(CARDS)] for source in sources]
    assert played[0] != played[1]
    assert sorted(map(repr, played[0])) == sorted(map(repr, played[1]))
    assert sources[0](CARDS) == played[0][0]


def test_each_api_gets_its_credential_and_direct_gets_another_key() -> None:
    by_api = {card.api: card for card in draw(MIX, 1)}
    assert b"authorization: Bearer k" in by_api["openai"].shot("h").data
    assert b"x-api-key: k" in by_api["anthropic"].shot("h").data
    assert b"x-api-key: upstream" in by_api["anthropic"].shot("h", "upstream").data
    assert b"Bearer k" not in by_api["openai"].shot("h", "upstream").data


def test_a_large_deck_is_small_in_number() -> None:
    large = Mix(MIX.models, MIX.keys, Dist("fixed", 1_000_000), MIX.output_tokens, 5, None)
    cards = draw(large, 1)
    assert 10 <= len(cards) < 20
    assert said(cards[0])["max_tokens"] == 5


def trace(folder: Path, *lines: object) -> Path:
    file = folder / "trace.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def test_a_trace_is_played_by_its_times_and_lengths_and_the_mix_fills_in(tmp_path: Path) -> None:
    file = trace(
        tmp_path,
        {"timestamp": 3000, "input_length": 500, "output_length": 7, "hash_ids": [1]},
        {"timestamp": 1000, "model": "b", "key": "own", "stream": False},
        {"timestamp": 2000, "path": "/v1/embeddings", "body": {"model": "e", "input": "x"}},
    )
    lines = read_trace(file, speed=2)
    assert [line.timestamp for line in lines] == [0, 500, 1000]
    named, whole, measured = of_trace(MIX, lines, 1)
    assert (named.api, named.key, named.stream) == ("anthropic", "own", False)
    assert (whole.path, json.loads(whole.body)) == ("/v1/embeddings", {"model": "e", "input": "x"})
    assert said(measured)["max_tokens"] == 7
    assert len(prompt(measured)) == 2000


def test_every_line_that_is_wrong_is_told(tmp_path: Path) -> None:
    file = trace(tmp_path, {"timestamp": 1}, {"input_length": 5}, {"timestamp": -1}, [])
    with pytest.raises(BadTrace) as raised:
        read_trace(file)
    assert [problem.removeprefix(f"{file}:")[0] for problem in raised.value.problems] == list("234")


def test_an_empty_trace_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="no line"):
        read_trace(trace(tmp_path))
