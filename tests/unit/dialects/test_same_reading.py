"""Priced model = executed model: what is priced is what any upstream reads from what is forwarded.

`CREDITGATE_MUTATED_BODIES` sets how many bodies are tried (100,000 for the promise; a short form
by default).
"""

import json
import os
import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from pydantic_core import from_json

from gateway.dialects import DIALECTS
from gateway.dialects.base import BadRequest, ForwardOptions, ReadOptions, RequestFacts
from gateway.dialects.openai.chat import OUTPUT_COUNTS, OUTPUT_MAXIMA

BODIES = int(os.environ.get("CREDITGATE_MUTATED_BODIES", "6000"))
UPSTREAM = "upstream-name"

BASES = {
    "openai_chat": {
        "model": "small",
        "messages": [
            {"role": "system", "content": "Be brief: now."},
            {"role": "user", "content": [{"type": "text", "text": "hé"}]},
        ],
        "max_tokens": 5,
        "max_completion_tokens": 7,
        "n": 2,
        "stream": True,
        "stream_options": {"include_usage": False},
        "service_tier": "auto",
    },
    "openai_completions": {
        "model": "small",
        "prompt": ["a", "b"],
        "max_tokens": 5,
        "best_of": 3,
        "n": 2,
        "stream": False,
    },
    "openai_embeddings": {"model": "small", "input": ["a", [1, 2]], "dimensions": 8},
    "openai_responses": {"model": "small", "input": "a", "max_output_tokens": 9, "stream": True},
    "anthropic_messages": {
        "model": "small",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "a"}],
        "stream": True,
    },
}

PARSERS: dict[str, Callable[[bytes], Any]] = {
    "json": json.loads,
    "orjson": orjson.loads,
    "jiter": from_json,
}


def first_of_two(body: bytes) -> Any:
    """A parser that keeps the first of two equal names."""
    return json.loads(body, object_pairs_hook=lambda pairs: dict(reversed(pairs)))


def whatever_case(body: bytes) -> Any:
    """A parser that matches names whatever their case, as Go's does: the last one wins."""
    return json.loads(body, object_pairs_hook=lambda pairs: {k.casefold(): v for k, v in pairs})


READERS = {**PARSERS, "first_of_two": first_of_two, "whatever_case": whatever_case}

NAMES = [
    *(
        "model",
        "Model",
        "MODEL",
        "mod\\u0065l",
        "model\\u0000",
        "maxTokens",
        "max_tokens",
        "Max_Tokens",
    ),
    *(
        "n",
        "N",
        "best_of",
        "stream",
        "Stream",
        "\\u017ftream",
        "stream_options",
        "max_output_tokens",
    ),
    *("n_predict", "service_tier", "Service_Tier", "messages", "prompt", "x", "temperature"),
]
VALUES = [
    *(
        '"small"',
        '"large"',
        '"sm\\u0061ll"',
        '"\\u0000"',
        "1",
        "0",
        "-0",
        "-1",
        "3",
        "128",
        "1e2",
        "1.0",
    ),
    *(
        "99999999999999999999",
        "18446744073709551615",
        "true",
        "false",
        "null",
        "NaN",
        "1e400",
        "[]",
        "{}",
    ),
    *(
        '{"include_usage":true,"include_usage":false}',
        '{"Include_Usage":false}',
        '"auto"',
        '"flex"',
    ),
]


def mutate(text: str, pick: random.Random) -> bytes:
    """One to three changes: members added, names or values changed, single bytes changed."""
    for _ in range(pick.randint(1, 3)):
        places = [at for at, c in enumerate(text) if c in "{,"]
        match pick.randrange(6):
            case 0 | 1 if places:
                at = pick.choice(places) + 1
                member = f'"{pick.choice(NAMES)}":{pick.choice(VALUES)}'
                if text[at - 1] == "{":
                    text = (
                        text[:at] + member + ("," if text[at : at + 1] != "}" else "") + text[at:]
                    )
                else:
                    text = text[:at] + member + "," + text[at:]
            case 2:
                old, new = pick.choice(NAMES), pick.choice(NAMES)
                text = text.replace(f'"{old}"', f'"{new}"', 1)
            case 3:
                text = text.replace(
                    pick.choice(['"small"', "5", "7", "2", "true"]), pick.choice(VALUES), 1
                )
            case 4:
                text = text.replace(":", pick.choice([" :", ":\n", ": "]))
            case _:
                at = pick.randrange(len(text))
                text = (
                    text[:at]
                    + pick.choice('{}[]",:\\019eE-.+ \0tfn')
                    + text[at + pick.randrange(2) :]
                )
    return text.encode()


FIELDS = {
    "openai_chat": ("model", "maximum", "count", "stream", "tier", "usage"),
    "openai_completions": ("model", "maximum", "count", "stream", "tier", "usage"),
    "openai_embeddings": ("model", "stream", "tier"),
    "openai_responses": ("model", "maximum", "count", "stream", "tier"),
    "anthropic_messages": ("model", "maximum", "stream"),
}
"""What decides the price in each dialect."""


def found_by(document: dict[str, Any], field: str) -> Any:
    """A field as a reader of the document finds it."""
    match field:
        case "model":
            return document.get("model")
        case "maximum":
            given = [document[n] for n in OUTPUT_MAXIMA if document.get(n) is not None]
            return max(given, default=None)
        case "count":
            return max(
                (document[n] for n in OUTPUT_COUNTS if document.get(n) is not None), default=1
            )
        case "stream":
            return document.get("stream") is True
        case "tier":
            tier = document.get("service_tier")
            return "default" if tier is None else tier
        case _:
            return not document.get("stream") or document["stream_options"]["include_usage"]


def priced(name: str, facts: RequestFacts, field: str) -> Any:
    """A field as the gate understood it."""
    match field:
        case "model":
            return UPSTREAM
        case "maximum":
            return facts.output_bound
        case "count":
            prompts = facts.document["prompt"] if name == "openai_completions" else ""
            several = isinstance(prompts, list) and not isinstance(prompts[0], int)
            return facts.choices // (len(prompts) if several else 1)
        case "stream":
            return facts.stream
        case "tier":
            return facts.service_tier if facts.service_tier is not None else "default"
        case _:
            return True


@pytest.mark.parametrize("name", BASES)
def test_upstreams_read_what_was_priced(name: str) -> None:
    dialect = DIALECTS[name]
    pick = random.Random(name)
    base = json.dumps(BASES[name], separators=(",", ":"), ensure_ascii=False)
    options = ReadOptions()
    accepted = 0
    for _ in range(BODIES // len(BASES)):
        body = mutate(base, pick)
        try:
            facts = dialect.read_request(body, options)
        except BadRequest:
            continue
        accepted += 1
        assert facts.model == json.loads(body)["model"], body
        forwarded = dialect.forward_body(facts, ForwardOptions(UPSTREAM, service_tier="default"))
        documents = {reader: read(forwarded) for reader, read in READERS.items()}
        assert documents["json"] == documents["orjson"] == documents["jiter"], body
        for reader, document in documents.items():
            for field in FIELDS[name]:
                assert found_by(document, field) == priced(name, facts, field), (
                    reader,
                    field,
                    body,
                )
    assert accepted > BODIES // len(BASES) // 20, "the mutations leave too little to compare"
