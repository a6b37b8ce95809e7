"""Which request is the retry of which, as one worker knows it."""

from dataclasses import dataclass
from typing import Any

import pytest

from gateway.domain.reservation import Account
from gateway.flow.retries import Attempt, Retries
from gateway.ledger.codec.notes import Note
from tests.support.clock import FakeClock

ACME = Account("acme", "k1", 0, 1)


@dataclass
class Request:
    """What is compared of a request."""

    request_id: str
    body: bytes
    started_at: float
    account: Account = ACME
    endpoint: str = "/v1/chat/completions"
    named: bool = False
    retry_count: str | None = None
    attempt: Attempt | None = None

    @property
    def owner(self) -> str:
        return f"{self.account.customer_id}\0{self.account.key_id}"

    def fingerprint(self) -> bytes:
        return self.body


class Worker:
    """One worker's table, and what it tells the others."""

    def __init__(self, name: str = "r") -> None:
        self._name = name
        self.told: list[Note] = []
        self.clock = FakeClock()
        self.attempts = Retries(self.told.append, self.clock)
        self._count = 0

    def begin(self, body: bytes = b"hi", **changes: Any) -> Attempt:
        """A request that has begun. changes: of account, path, named, retry_count"""
        self._count += 1
        request = Request(f"{self._name}{self._count}", body, self.clock(), **changes)
        return self.attempts.attempt(request)

    def tell(self, other: "Worker") -> None:
        for note in self.told:
            other.attempts.take(note)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def unanswered(worker: Worker, body: bytes = b"hi") -> Attempt:
    attempt = worker.begin(body)
    attempt.finish(answered=False, released=False)
    return attempt


def test_an_answered_request_leaves_nothing(worker: Worker) -> None:
    worker.begin().finish(answered=True, released=False)
    assert worker.begin().earlier() is None
    assert worker.told == []


def test_a_request_without_an_answer_is_named_by_the_same_one_after_it(worker: Worker) -> None:
    unanswered(worker)
    assert worker.begin().earlier() == "r1"


def test_the_client_that_left_is_known_before_its_request_has_ended(worker: Worker) -> None:
    first = worker.begin()
    first.left()
    retry = worker.begin()
    assert retry.earlier() == "r1"
    first.finish(answered=False, released=False)
    assert [note.kind for note in worker.told] == ["unanswered"]


@pytest.mark.parametrize(
    "other",
    [
        {"body": b"ho"},
        {"account": Account("acme", "k2", 0, 1)},
        {"account": Account("other", "k1", 0, 1)},
        {"endpoint": "/v1/completions"},
        {"named": True},
    ],
)
def test_another_body_key_customer_or_route_is_another_request(worker: Worker, other: dict) -> None:  # type: ignore[type-arg]
    unanswered(worker)
    assert worker.begin(**other).earlier() is None
    assert worker.begin().earlier() == "r1"


def test_what_was_released_after_its_client_had_left_is_not_named(worker: Worker) -> None:
    first = worker.begin()
    first.left()
    during = worker.begin()
    assert during.earlier() == "r1"
    first.finish(answered=False, released=True)
    assert during.earlier() is None, "its event says what is known at its end"
    assert worker.begin().earlier() is None
    assert [note.kind for note in worker.told] == ["unanswered", "not_charged"]


def test_what_was_released_with_its_client_there_tells_nobody(worker: Worker) -> None:
    worker.begin().finish(answered=False, released=True)
    assert worker.told == []


def test_a_retry_that_begun_before_the_first_was_cut_off_needs_the_hint(worker: Worker) -> None:
    first, beside, hinted = worker.begin(), worker.begin(), worker.begin(retry_count="1")
    first.left()
    assert beside.earlier() is None, "two of the same at once may be meant"
    assert hinted.earlier() == "r1"


@pytest.mark.parametrize("said", ["0", "", "-1", "one", "²", "9" * 5000])
def test_a_count_that_is_none_is_no_hint(worker: Worker, said: str) -> None:
    first, second = worker.begin(), worker.begin(retry_count=said)
    first.left()
    assert second.earlier() is None


def test_nothing_is_the_retry_of_itself(worker: Worker) -> None:
    hinted = worker.begin(retry_count="2")
    hinted.left()
    assert hinted.earlier() is None


def test_once_a_retry_is_answered_who_asks_again_means_it(worker: Worker) -> None:
    unanswered(worker)
    second = worker.begin()
    assert second.earlier() == "r1"
    second.finish(answered=False, released=False)
    third = worker.begin()
    assert third.earlier() == "r2", "the latest"
    third.finish(answered=True, released=False)
    assert worker.begin().earlier() is None
    assert third.earlier() == "r2", "what was said of it stays"


def test_other_workers_hear_of_all_this(worker: Worker) -> None:
    other = Worker("other")
    first = worker.begin()
    first.left()
    worker.tell(other)
    retry = other.begin()
    assert retry.earlier() == "r1"
    retry.finish(answered=True, released=False)
    other.tell(worker)
    assert worker.begin().earlier() is None


def test_other_workers_hear_what_was_not_charged(worker: Worker) -> None:
    other = Worker("other")
    first = worker.begin()
    first.left()
    first.finish(answered=False, released=True)
    worker.tell(other)
    assert other.begin().earlier() is None


def test_what_is_told_twice_or_of_strangers_changes_nothing(worker: Worker) -> None:
    unanswered(worker)
    for note in (*worker.told, Note("repeated", "unheard of"), Note("not_charged", "r9")):
        worker.attempts.take(note)
    assert worker.begin().earlier() == "r1"


def test_ten_minutes_later_it_is_forgotten(worker: Worker) -> None:
    unanswered(worker)
    worker.clock.advance(599.9)
    assert worker.begin().earlier() == "r1"
    worker.clock.advance(0.1)
    assert worker.begin().earlier() is None
    assert not worker.attempts._marks
    assert not worker.attempts._of_body
    assert not worker.attempts._whose


def test_what_was_told_long_ago_counts_from_then(worker: Worker) -> None:
    other = Worker("other")
    unanswered(other)
    worker.attempts.take(other.told[0], 601.0)
    assert worker.begin().earlier() is None


def test_memory_is_bounded_and_the_oldest_go_first(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.flow.retries.MARKS_MOST", 3)
    for number in range(5):
        unanswered(worker, b"%d" % number)
    found = [worker.begin(b"%d" % number).earlier() for number in range(5)]
    assert found == [None, None, "r3", "r4", "r5"]
    assert len(worker.attempts._of_body) == worker.attempts._whose.total() == 3
