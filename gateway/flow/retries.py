"""Detects retries of requests that were charged but never fully delivered.

The official SDKs retry by themselves and name nothing. Such a retry is a request like any other: it
runs and is charged, and its event names the earlier one (`retry_of`).

Rules:
- the same body, route, API key and customer, within ten minutes, begun after the earlier one's
  client had gone or been cut off;
- an SDK's own count of its retries (`x-stainless-retry-count`) is a hint, not a proof: with it the
  order of the two does not matter, for the gate may learn late that a client has gone;
- what was released was not charged: its retry is not marked;
- when a retry has been answered, the earlier ones are forgotten: the same request after that is a new one;
- a name (`Idempotency-Key`) says that it is another request.

A request that is answered costs the making of one `Attempt`; a body is digested only where it may
have to be compared, or where it is too large to keep.
"""

import hashlib
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from gateway.ledger.codec.notes import Note
from gateway.ledger.unanswered import TOLD_FOR_MS

RETRY_COUNT: Final = "x-stainless-retry-count"
MARKS_MOST: Final = 10_000
_TOLD_FOR_S: Final = TOLD_FOR_MS / 1000
_DIGEST_BYTES: Final = 16
_A_RETRY: Final = re.compile(r"[1-9][0-9]{0,3}")


class Mark:
    """A request that was not fully delivered. since: by this process's monotonic clock."""

    __slots__ = ("digest", "released", "request_id", "since", "whose")

    def __init__(self, request_id: str, whose: str, digest: bytes, since: float) -> None:
        self.request_id = request_id
        self.whose = whose
        self.digest = digest
        self.since = since
        self.released = False


class Retryable(Protocol):
    """A request that may be the retry of another, or be retried.

    named:       its client gave it an Idempotency-Key
    retry_count: the SDK's own count of its retries, None when it says nothing
    attempt:     what `Retries.attempt` made of it
    """

    request_id: str
    started_at: float
    retry_count: str | None
    attempt: "Attempt | None"

    @property
    def named(self) -> bool: ...

    @property
    def owner(self) -> str:
        """Customer and key."""
        ...

    @property
    def endpoint(self) -> str: ...

    def fingerprint(self) -> bytes:
        """What makes two requests the same."""
        ...


class Retries:
    """What one worker knows of the unanswered requests of all."""

    def __init__(
        self, post: Callable[[Note], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """post: tells the other workers and gates. clock: monotonic, in seconds."""
        self._post = post
        self._clock = clock
        self._marks: OrderedDict[str, Mark] = OrderedDict()
        self._of_body: dict[bytes, list[Mark]] = {}
        self._whose: Counter[str] = Counter()

    def attempt(self, request: Retryable) -> "Attempt":
        """What is needed to compare a request with others; made at the first use."""
        if request.attempt is None:
            request.attempt = Attempt(self, request)
        return request.attempt

    def earlier(self, request: Retryable) -> str | None:
        """Id of the request that this is the retry of, as far as is known by now."""
        if not self._marks and request.attempt is None:
            return None
        return self.attempt(request).earlier()

    def take(self, note: Note, age_s: float = 0.0) -> None:
        """What another worker tells, or this one (again)."""
        if note.kind == "unanswered":
            if note.request_id not in self._marks:
                since = self._clock() - age_s
                self._add(Mark(note.request_id, note.whose, note.digest, since))
        elif mark := self._marks.get(note.request_id):
            mark.released = note.kind == "not_charged"
            self._drop(mark)

    @property
    def knows_any(self) -> bool:
        """Whether there is any that a request could be the retry of."""
        return bool(self._marks)

    def find(self, attempt: "Attempt") -> Mark | None:
        """The latest that this is the retry of."""
        self._forget_old()
        if not self._whose[attempt.whose]:
            return None
        for mark in reversed(self._of_body.get(attempt.digest, ())):
            in_order = attempt.says_retry or mark.since <= attempt.begun_at
            if in_order and mark.request_id != attempt.request_id:
                return mark
        return None

    def unanswered(self, attempt: "Attempt") -> None:
        """The request was not fully delivered."""
        note = Note("unanswered", attempt.request_id, attempt.whose, attempt.digest)
        self.take(note)
        self._post(note)

    def not_charged(self, attempt: "Attempt") -> None:
        """It was released after all."""
        self._tell(Note("not_charged", attempt.request_id))

    def repeated(self, attempt: "Attempt") -> None:
        """A retry has been answered: forget what it was the retry of."""
        for mark in tuple(self._of_body.get(attempt.digest, ())):
            self._tell(Note("repeated", mark.request_id))

    def _tell(self, note: Note) -> None:
        self.take(note)
        self._post(note)

    def _add(self, mark: Mark) -> None:
        self._marks[mark.request_id] = mark
        self._of_body.setdefault(mark.digest, []).append(mark)
        self._whose[mark.whose] += 1
        while len(self._marks) > MARKS_MOST:
            self._drop(next(iter(self._marks.values())))

    def _forget_old(self) -> None:
        """Marks are in order of arrival; one that arrived late stays a little longer."""
        oldest = self._clock() - _TOLD_FOR_S
        while self._marks and (first := next(iter(self._marks.values()))).since <= oldest:
            self._drop(first)

    def _drop(self, mark: Mark) -> None:
        del self._marks[mark.request_id]
        same = self._of_body[mark.digest]
        same.remove(mark)
        if not same:
            del self._of_body[mark.digest]
        self._whose[mark.whose] -= 1
        if not self._whose[mark.whose]:
            del self._whose[mark.whose]


class Attempt:
    """One request while it runs. begun_at: by the monotonic clock."""

    __slots__ = (
        "_all", "_digest", "_earlier", "_marked", "_request", "begun_at", "request_id",
        "says_retry", "whose",
    )  # fmt: skip

    def __init__(self, retries: Retries, request: Retryable) -> None:
        self._all = retries
        self._request: Retryable | None = request
        self._earlier: Mark | None = None
        self._marked = False
        self._digest = b""
        self.begun_at = request.started_at
        self.request_id = request.request_id
        count = request.retry_count
        self.says_retry = count is not None and _A_RETRY.fullmatch(count) is not None
        self.whose = request.owner

    @property
    def digest(self) -> bytes:
        """Of customer, key, route and body; made at its first use."""
        if not self._digest:
            assert self._request is not None, "it has not finished"
            hashed = hashlib.sha256(f"{self.whose}\0{self._request.endpoint}\0".encode())
            hashed.update(self._request.fingerprint())
            self._digest = hashed.digest()[:_DIGEST_BYTES]
        return self._digest

    def earlier(self) -> str | None:
        """Id of the request that this is the retry of, as far as is known by now."""
        request = self._request
        if request is not None:  # else it has finished: what was said of it stays
            if request.named or not (self._earlier or self._all.knows_any):
                return None
            if self._earlier is None or self._earlier.released:
                self._earlier = self._all.find(self)
        return None if self._earlier is None else self._earlier.request_id

    def left(self) -> None:
        """The client has gone, or is about to be cut off, without the complete answer."""
        if not self._marked and self._request is not None:
            self._marked = True
            self._all.unanswered(self)

    def finish(self, *, answered: bool, released: bool) -> None:
        """The request has ended. answered: its client got the whole of it. released: for nothing."""
        if released:
            if self._marked:
                self._all.not_charged(self)
        elif not answered:
            self.left()
        elif self._earlier is not None:
            self._all.repeated(self)
        self._request = None  # each refers to the other: a cycle would keep the request's body
