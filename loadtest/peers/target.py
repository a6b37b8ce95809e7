"""What a contender of the benchmark is, and what it stands on.

Invariants: a contender is a context manager that yields its Target; what it needs and cannot have it
raises as Missing, in words for the report.
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.interpreters import Interpreter
from loadtest.nginx import Upstream
from loadtest.requests import CHAT_PATH


class Missing(Exception):
    """A contender that cannot run here; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class World:
    """What the contenders stand on, the same for all.

    folder:     for their files, each in one of its own
    upstreams:  the providers: "plain" and "tls"
    redis:      the socket of the Redis that holds their money
    key:        the customer's API key in clear
    models:     the model's name for each upstream
    """

    folder: Path
    upstreams: Mapping[str, Upstream]
    redis: Path
    key: str
    models: Mapping[str, str]


def _nothing(_upstream: str) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers.

    url:      where, for an upstream's name and whether it is a stream
    about:    version, configuration and what it gates, for the report
    serving:  the processes whose CPU counts
    others:   processes that belong to it but do not serve
    fields:   header fields that it needs in addition to the caller's, by upstream
    members:  members of the body that it needs in addition or instead, by upstream
    path:     of its chat endpoint
    python:   the interpreter that it runs on; None when it runs on none
    ledger:   it stands on the world's Redis
    tidy:     called between samples, unmeasured
    """

    name: str
    url: Callable[[str, bool], str]
    about: str = ""
    serving: Callable[[], list[int]] = list
    others: Callable[[], list[int]] = list
    fields: Callable[[str], Mapping[str, str]] = field(default=_nothing)
    members: Callable[[str], Mapping[str, Any]] = field(default=_nothing)
    path: str = CHAT_PATH
    python: Interpreter | None = None
    tls: ssl.SSLContext | None = None
    ledger: bool = False
    tidy: Callable[[], None] = lambda: None
