"""What a recipe says of a receiver: where, how many, in which form, and what its answers mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from gateway.exporter.sinks.billing import Item

DAY_MS: Final = 86_400_000


class Named(NamedTuple):
    """An item with the names that the receiver knows it by."""

    item: Item
    source: str
    event_name: str
    customer: str


class Answer(NamedTuple):
    """What the receiver has answered to one call: a 2xx, or a 4xx about its content."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    def parsed(self) -> Mapping[str, Any]:
        """The body as a JSON object; empty if it is none."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    def reason(self) -> str:
        """For a dead letter: status and the start of the body."""
        text = self.body[:300].decode(errors="replace").strip()
        return f"answered {self.status}: {text}" if text else f"answered {self.status}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happened to the items of one call, by their index.

    refused:     for good, with the reason
    duplicates:  had been taken before
    undecided:   the others were not taken either (the receiver rolled back): they are sent again
    refused_all: the receiver does not say which item is wrong: the call is split in halves to find it
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    duplicates: frozenset[int] = frozenset()
    undecided: bool = False
    refused_all: str | None = None


def judge_by_status(answer: Answer, _sent: Sequence[Mapping[str, Any]]) -> Verdict:
    """A 2xx takes all of them, repeats included; anything else is about one that is not named."""
    return Verdict() if answer.ok else Verdict(refused_all=answer.reason())


def as_list(items: list[dict[str, Any]]) -> Any:
    """The list is the body."""
    return items


def as_events(items: list[dict[str, Any]]) -> Any:
    """The list is under `events`."""
    return {"events": items}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One receiver.

    path:    behind the configured URL
    most:    items in one call
    build:   one item's JSON
    probe:   GET that only a valid key is answered; "" if there is none: then reachability is all that is checked
    max_replay_age_ms: how old an event may be so that a repeat is still recognised; None: any age
    single:  content type of a call with one item that is not in a list
    """

    path: str
    most: int
    build: Callable[[Named], dict[str, Any]]
    wrap: Callable[[list[dict[str, Any]]], Any] = as_list
    judge: Callable[[Answer, Sequence[Mapping[str, Any]]], Verdict] = judge_by_status
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    content_type: str = "application/json"
    single: str = ""
    probe: str = ""
    max_replay_age_ms: int | None = None
