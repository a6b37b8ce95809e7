"""What an error reply of the server means to the gate: one table, and who raises what.

Invariants: a reply whose first word is in `NOT_EXECUTED` promises that nothing was written, so the
outcome is known. Anything else that a script answers with an error is a bug in the script or in
the keys it met, and may have left a part of its writes behind (Redis does not roll back): it is
raised as `LedgerBug`, never retried.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import TimeoutError as TooSlow

from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable, Redirected

NOSCRIPT: Final = "NOSCRIPT"
NOT_PRIMARY: Final = frozenset({"READONLY", "MASTERDOWN", "LOADING"})
"""The server is not the primary, or not ready to be one: reconnect to find it."""
REDIRECTS: Final = frozenset({"MOVED", "ASK"})
"""Another node of the cluster has the slot: for good, or for this call."""
OF_ONE_CALL: Final = frozenset({NOSCRIPT, "CLUSTERDOWN", "TRYAGAIN"}) | REDIRECTS
"""Says something of the call's script or slot, nothing of the server."""

NOT_EXECUTED: Final = {
    NOSCRIPT: "does not keep the script, although it was just loaded",
    "BUSY": "is busy with a script that does not end",
    "LOADING": "is still loading its data",
    "READONLY": "is a replica; it takes no writes",
    "MISCONF": "cannot write to its disk",
    "NOREPLICAS": "has fewer replicas than it requires",
    "OOM": "is out of memory",
    "MASTERDOWN": "is a replica that has lost its primary",
    "CLUSTERDOWN": "belongs to a cluster that is down",
    "MOVED": "says that the key lives on another node",
    "ASK": "says that the key is moving to another node",
    "TRYAGAIN": "says that the keys are moving to another node",
    "NOAUTH": "wants a password",
    "NOPERM": "does not permit this user what the gate needs",
    "WRONGPASS": "refuses the user name or the password",
}
"""First word of the reply → what it says of the server. Scripts meet OOM, READONLY, MISCONF and
NOREPLICAS before their first write only: the server checks them at the start of a script with
a `#!lua` line, and otherwise at its first writing command."""


_CLASSES: Final[dict[type[Exception], str]] = {
    AuthenticationError: "WRONGPASS",
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",  # to redis-py a kind of the next one
    ClusterDownError: "CLUSTERDOWN",
    NoPermissionError: "NOPERM",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    TryAgainError: "TRYAGAIN",
    MovedError: "MOVED",  # to redis-py a kind of the next one
    AskError: "ASK",
}
"""Errors of which redis-py takes off the first word."""


_IN_PIPELINE: Final = re.compile(
    r"Command # \d+ \(.*\) of pipeline caused error: \(?['\"]?(.*?)(?:['\"],?\))?", re.DOTALL
)


class NodeAway(NotConnected):
    """A node of a cluster cannot be reached. server: HOST:PORT"""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"the ledger's node {server} is away: {reason.rstrip('.')}")
        self.server = server


def is_away(error: Exception) -> bool:
    """Whether an error says that a server cannot be reached, or serves nothing at the moment; what was
    asked of other servers may have worked."""
    return isinstance(error, NotConnected | TooSlow | OSError) or refusal_of(error) is not None


def as_unavailable(error: Exception) -> LedgerUnavailable:
    """What to raise for what redis-py raises: the server's own refusal if it is one."""
    refusal = refusal_of(error)
    if refusal is not None:
        return refusal
    if isinstance(error.__cause__, LedgerUnavailable):  # of the map of a cluster
        return error.__cause__
    if isinstance(error, NodeAway):
        return LedgerUnavailable(str(error))
    said = f": {said_by(error)[:200]}" if isinstance(error, ResponseError) else ""
    return LedgerUnavailable(f"the ledger cannot be read: {type(error).__name__}{said}")


def refusal_of(error: Exception) -> LedgerUnavailable | None:
    """The server's own refusal in what redis-py raises; None where it is none."""
    if isinstance(error, LedgerUnavailable):  # no primary was found: see `following.NotPrimary`
        return LedgerUnavailable(str(error), unknown=error.unknown, code=error.code)
    word = next((word for kind, word in _CLASSES.items() if isinstance(error, kind)), None)
    if word is None and isinstance(error, ResponseError):
        word = first_word(error)
    meaning = NOT_EXECUTED.get(word or "")
    if word is None or meaning is None:
        return None
    detail = f": {said_by(error)[:200]}" if word == "NOPERM" else ""  # it names the command
    return LedgerUnavailable(f"the ledger's server {meaning} ({word}){detail}", code=word)


def first_word(error: Exception) -> str:
    """The code an error reply opens with: `NOSCRIPT No matching script.` → `NOSCRIPT`."""
    return said_by(error).partition(" ")[0]


def said_by(error: Exception) -> str:
    """The server's own words: redis-py puts the command of a pipeline before them, arguments and all."""
    match = _IN_PIPELINE.fullmatch(str(error))
    return str(error) if match is None else match[1]


def redirected(error: Exception, host: str = "") -> Redirected:
    """Where a MOVED or ASK sends a call: `MOVED 3999 127.0.0.1:6381`.

    host: of the node that said so, for an address without one
    """
    word, slot, address = str(error).split(" ")[:3]
    named, _, port = address.rpartition(":")
    named = "" if named == "?" else named.strip("[]")  # a host name that is preferred and not known
    meaning = f"the ledger's server {NOT_EXECUTED[word]} ({word})"
    return Redirected(meaning, word, int(slot), (named or host, int(port)))


def explain(error: Exception, script_name: str) -> LedgerUnavailable | LedgerBug:
    """The exception to raise for an error reply to a script. Arguments are never in it."""
    word = first_word(error)
    meaning = NOT_EXECUTED.get(word)
    if meaning is not None:
        return LedgerUnavailable(f"the ledger's server {meaning} ({word})", code=word)
    return LedgerBug(f"script {script_name} failed: {str(error)[:300]}")


@contextmanager
def unavailable() -> Iterator[None]:
    """Say LedgerUnavailable for whatever redis-py raises, with the server's own refusal if it is one."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise as_unavailable(error) from error
