"""The requests of a load: a deck drawn once from the mix, and played over and over.

Invariants: every process draws the same deck (same seed) and plays it in an order of its own, so that
gate and direct see the same mix, and what is behind them may remember what it has seen.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from loadtest.faults import Dist
from loadtest.requests import CLIENT_HEADERS, FILLER, Shot, Source, http_request
from loadtest.tester.trace import Line

CARDS: Final = 1000
"""Requests in a deck, fewer when they are large."""
MOST_BYTES: Final = 64 << 20
BYTES_PER_TOKEN: Final = 4

PATHS: Final[Mapping[str, str]] = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the mix: its name, its API, its share of the requests, its share of streams."""

    name: str
    api: str
    weight: float
    stream: float


@dataclass(frozen=True, slots=True)
class Key:
    """A customer's key and its share of the requests."""

    key: str
    weight: float


@dataclass(frozen=True, slots=True)
class Mix:
    """What requests are like.

    prompt_tokens, output_tokens: distributions; a token of the prompt is four bytes of text
    max_tokens:  what requests allow; None is what the answer is drawn to be
    simulate:    controls for the simulated provider, which then answers as long as was drawn;
                 None sends none
    """

    models: tuple[Model, ...]
    keys: tuple[Key, ...]
    prompt_tokens: Dist
    output_tokens: Dist
    max_tokens: int | None
    simulate: str | None


@dataclass(frozen=True, slots=True)
class Card:
    """One request as it was drawn, before it is bytes. `body`, if given, is sent as it is."""

    path: str
    api: str
    key: str
    body: bytes
    stream: bool

    def shot(self, host: str, key: str | None = None) -> Shot:
        """Its bytes for a host; `key` replaces the customer's own."""
        key = self.key if key is None else key
        if self.api == "anthropic":
            credential = {"x-api-key": key, "anthropic-version": "2023-06-01"}
        else:
            credential = {"authorization": f"Bearer {key}"}
        headers = {**CLIENT_HEADERS, **credential}
        return Shot(http_request(self.path, self.body, headers, host=host), frames=self.stream)


def draw(mix: Mix, seed: int) -> list[Card]:
    """A deck."""
    rng = random.Random(seed)
    cards: list[Card] = []
    size_bytes = 0
    while len(cards) < CARDS and size_bytes < MOST_BYTES:
        [model] = rng.choices(mix.models, [model.weight for model in mix.models])
        [key] = rng.choices(mix.keys, [key.weight for key in mix.keys])
        card = _card(
            mix,
            model,
            key.key,
            stream=rng.random() < model.stream,
            prompt_tokens=max(1, round(mix.prompt_tokens.draw(rng))),
            output_tokens=max(1, round(mix.output_tokens.draw(rng))),
        )
        cards.append(card)
        size_bytes += len(card.body)
    return cards


def of_trace(mix: Mix, lines: Sequence[Line], seed: int) -> list[Card]:
    """A card for each line of a trace; what a line does not say is drawn from the mix."""
    rng = random.Random(seed)
    by_name = {model.name: model for model in mix.models}
    cards = []
    for line in lines:
        [drawn] = rng.choices(mix.models, [model.weight for model in mix.models])
        model = drawn
        if line.model is not None:
            model = by_name.get(line.model, Model(line.model, drawn.api, 1, drawn.stream))
        [key] = rng.choices(mix.keys, [key.weight for key in mix.keys])
        stream = rng.random() < model.stream if line.stream is None else line.stream
        drawn_prompt, drawn_output = mix.prompt_tokens.draw(rng), mix.output_tokens.draw(rng)
        if line.body is not None:
            path = line.path or PATHS[model.api]
            body, asked = orjson.dumps(line.body), line.body.get("stream") is True
            cards.append(Card(path, model.api, line.key or key.key, body, asked))
            continue
        prompt = drawn_prompt if line.input_length is None else line.input_length
        output = drawn_output if line.output_length is None else line.output_length
        cards.append(
            _card(
                mix,
                model,
                line.key or key.key,
                stream=stream,
                prompt_tokens=max(1, round(prompt)),
                output_tokens=max(1, round(output)),
            )
        )
    return cards


def _card(
    mix: Mix, model: Model, key: str, *, stream: bool, prompt_tokens: int, output_tokens: int
) -> Card:
    line = ""
    if mix.simulate is not None:
        line = f"\nsim: tokens={output_tokens} {mix.simulate}".rstrip()
    length = max(1, prompt_tokens * BYTES_PER_TOKEN - len(line))
    text = (FILLER * (length // len(FILLER) + 1))[:length] + line
    document: dict[str, Any] = {
        "model": model.name,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": mix.max_tokens or output_tokens,
    }
    if stream:
        document["stream"] = True
        if model.api == "openai":
            document["stream_options"] = {"include_usage": True}
    return Card(PATHS[model.api], model.api, key, orjson.dumps(document), stream)


def shuffled(cards: Sequence[Card], host: str, key: str | None, rng: random.Random) -> Source:
    """A source that plays the deck again and again, from top to bottom, shuffled once."""
    shots = [card.shot(host, key) for card in cards]
    rng.shuffle(shots)
    return lambda number: shots[number % len(shots)]
