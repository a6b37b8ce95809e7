"""What every store must answer: one set of events, a table of questions, the same answers from each.

A store's test file derives from `ReaderContract` and supplies `sink`, a fresh `Store` that is not open,
and `access`, the `StoreAccess` to the same place. JSON texts are compared by what they say.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final

import orjson
import pytest

from gateway.domain.delivery import (
    Anomaly,
    DeadLetter,
    Place,
    ShardContents,
    Span,
    StoredEvent,
    StoredSignal,
)
from gateway.domain.event_rows import EventRow, row_of, signal_rows
from gateway.domain.events import Event
from gateway.domain.history import PastUse
from gateway.domain.signals import Signal
from gateway.domain.stores import (
    ChangeFilter,
    ChangePlace,
    ChargeSum,
    ClosedStatement,
    EventStore,
    RowFilter,
    StoreAccess,
    StoreMissing,
)
from gateway.exporter.sink import Batch, Store
from tests.unit.exporter.sinks.contract import make_batch, make_event

T0: Final = 1_700_000_000_000
CAME: Final = T0 - 1000
R1: Final = f"{CAME:012x}{'a' * 20}"
R2: Final = f"{CAME - 5:012x}{'b' * 20}"
LABELS: Final = {
    "project_id": "web",
    "key_id": "key_1",
    "route": "/v1/chat/completions",
    "model": "m",
    "upstream": "openai",
    "livemode": True,
}
PLAIN: Final = {"input": 12, "output": 5}
LATE: Final = {"input": 40, "cache_read": 2}
LOW: Final = Signal("low_balance", {"threshold_nano": 5})
OUT: Final = Signal("exhausted", {"threshold_nano": 0})


def _adjust(seq: int, event_id: str, nano: int, **changed: Any) -> Event:
    facts: dict[str, Any] = {"operator": "Zoë", "reason": 'a "refund" \\ of 50 % — 退款'}
    fields: dict[str, Any] = {"usage": {}, "price_version": None, "facts": facts, **changed}
    return make_event(seq, kind="adjust", event_id=event_id, amount_nano=nano, **fields)


EVENTS: Final = (
    make_event(
        0,
        event_id=f"{R1}:settled",
        facts={"request_id": R1, **LABELS, "tags": {"team": "x"}, "duration_ms": 12.5},
        cost_nano=300,
        signals=(LOW, OUT),
    ),
    _adjust(1, f"{R1}:repriced", 90),
    _adjust(2, "refund:1", -600, balance_nano=-9_007_199_254_740_993),
    make_event(3, kind="release", event_id="r3:released", amount_nano=0, usage={}),
    make_event(4, kind="expire", event_id=f"{R2}:expired", amount_nano=30, usage={}),
    make_event(
        5,
        kind="settle_late",
        event_id=f"{R2}:settled_late",
        amount_nano=-8,
        usage=LATE,
        facts={"request_id": R2, "model": "m", "service_tier": "flex", "livemode": False},
    ),
    _adjust(6, f"{R2}:repriced_late", 2),
    make_event(0, 1, customer_id="other", facts={}, allocations=()),
    make_event(
        1, 1, kind="grant", event_id="grant-1", customer_id="zeta", price_version=None, usage={}
    ),
    make_event(2, 1, kind="release", event_id="f_x:released", customer_id="zeta"),
    make_event(3, 1, kind="expire", event_id="f_x:expired", customer_id="zeta"),
    make_event(4, 1, kind="settle_late", event_id="fax:settled_late", customer_id="zeta"),
    make_event(
        0,
        1,
        epoch=2,
        event_id="again:settled",
        customer_id="zeta",
        occurred_at_ms=T0 - 50,
        signals=(LOW,),
    ),
    _adjust(7, "refund:1%", 7, customer_id="zeta"),
    _adjust(8, "refund_1", 8, customer_id="zeta"),
)
"""In order of arrival. Traps: customers of several kinds of end, a second epoch, an older time that
arrives last, ids that are patterns of one another, an integer that a float cannot hold."""

LETTERS: Final = (
    DeadLetter(0, 1, 9, None, "unreadable", b"\x00\xff"),
    DeadLetter(1, 2, 1, "lost:settled", "Zoë refused it", b"{}"),
)
GAPS: Final = (
    Anomaly("gap", 0, Place(1, 1), Place(1, 4)),
    Anomaly("ledger_behind", 1, Place(1, -1), Place(2, 0)),
)
ENDS: Final = {0: Place(1, 9), 1: Place(2, 1)}
SIGNALS: Final = tuple(
    StoredSignal(*row[:6], orjson.loads(row.numbers), "waiting", 0, None, None)
    for event in EVENTS
    for row in signal_rows(event)
)


def _bare(stored: StoredEvent | None) -> Event | None:
    return stored.event if stored else None


def _change(seq: int, event_id: str, actor: str, action: str, **changed: Any) -> Event:
    facts: dict[str, Any] = {"actor": actor, "action": action, "reason": 'Zoë\'s "reason"'}
    if changed.get("kind", "audit") == "audit":
        facts["after"] = {"actor": "user:decoy", "action": "decoy.made"}
    fields: dict[str, Any] = {
        "kind": "audit",
        "amount_nano": 0,
        "usage": {},
        "allocations": (),
        "price_version": None,
        "facts": facts,
        **changed,
    }
    return make_event(seq, event_id=event_id, **fields)


CHANGES: Final = (
    _change(0, "audit:1", "user:zoë@example.com", "key.create", shard=2),
    _change(1, "audit:2", "user:zoë@example.com", "keys.purge", shard=2, customer_id=""),
    _change(2, "grant:1", "webhook:stripe", "grant.create", shard=2, kind="grant", amount_nano=5),
    _change(3, "audit:3", "token:t'1", "key.revoke", shard=2, occurred_at_ms=T0 + 1),
    _change(4, "audit:4", "token:t'1", "key", shard=2, customer_id="other"),
    make_event(5, 2, kind="adjust", event_id="by time", facts={"reason": "actor"}),
    make_event(6, 2, facts={"actor": "user:settles", "action": "key.create"}),
)
"""Traps: changes of one moment, a resource whose name begins as another's, an action without one, an actor
that stands deeper, a kind that nobody's change writes."""


def changes(**wanted: Any) -> Callable[[EventStore], list[str]]:
    """The question after changes: ids, in order."""
    return lambda store: [row.event_id for row in store.changes(ChangeFilter(**wanted))]


ASKED_OF_CHANGES: Final[dict[str, tuple[Callable[[EventStore], list[str]], list[str]]]] = {
    "all": (changes(), ["audit:4", "grant:1", "audit:3", "audit:2", "audit:1"]),
    "some": (changes(limit=2), ["audit:4", "grant:1"]),
    "before": (
        changes(before=ChangePlace(T0 + 1, 2, 1, 3)),
        ["audit:2", "audit:1"],
    ),
    "since": (changes(since_ms=T0 + 2), ["audit:4", "grant:1"]),
    "until": (changes(until_ms=T0 + 1), ["audit:1"]),
    "of a customer": (changes(customer_id="acme"), ["grant:1", "audit:3", "audit:1"]),
    "of no customer": (changes(customer_id=""), ["audit:2"]),
    "by an actor": (changes(actor="token:t'1"), ["audit:4", "audit:3"]),
    "by nobody": (changes(actor="user:decoy"), []),
    "one action": (changes(action="key.create"), ["audit:1"]),
    "of a resource": (changes(action="key"), ["audit:4", "audit:3", "audit:1"]),
    "of no action": (changes(action="decoy"), []),
    "everything": (
        changes(
            since_ms=T0, until_ms=T0 + 9, customer_id="acme", actor="webhook:stripe",
            action="grant", before=ChangePlace(T0 + 3, 0, 1, 0), limit=1,
        ),
        ["grant:1"],
    ),
}  # fmt: skip


def _by_time(events: tuple[Event, ...]) -> list[EventRow]:
    ordered = sorted(events, key=lambda e: (e.occurred_at_ms, e.shard, e.epoch, e.seq))
    return [said(row_of(event)) for event in ordered]


def said(row: EventRow) -> EventRow:
    """The row with its JSON texts in one form, whatever the store makes of spaces and order."""
    texts = [
        orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode()
        for text in (row.usage, row.allocations, row.facts)
    ]
    return row._replace(usage=texts[0], allocations=texts[1], facts=texts[2])


def rows(**wanted: Any) -> Callable[[EventStore], list[EventRow]]:
    """The question after rows."""
    return lambda store: [said(row) for row in store.rows(RowFilter(**wanted))]


def plain(event: Event) -> Event:
    """As it is read back: signals have rows of their own."""
    return replace(event, signals=())


STORED: Final = tuple(plain(event) for event in EVENTS)

USES: Final = [
    PastUse("acme", "m", CAME, "p_1", PLAIN, 700 - 90),
    PastUse("acme", "m", CAME - 5, "p_1", LATE, 30 - 8 - 2, "flex"),
    PastUse("other", "", T0, "p_1", PLAIN, 700),
    PastUse("zeta", "m", T0 - 50, "p_1", PLAIN, 700),
    PastUse("zeta", "m", T0 + 3, "p_1", PLAIN, 703),
]

Question = Callable[[EventStore], Any]

QUESTIONS: Final[dict[str, tuple[Question, Any]]] = {
    # by id and request
    "event": (lambda s: _bare(s.event("refund:1")), STORED[2]),
    "event that is not there": (lambda s: s.event("refund:"), None),
    "of_request": (lambda s: [e.event for e in s.of_request(R2)], [STORED[5]]),
    "of_request without any": (lambda s: s.of_request("nothing"), []),
    "latest_named": (lambda s: _bare(s.latest_named("refund:1")), STORED[13]),
    "latest_named with a wildcard": (lambda s: _bare(s.latest_named("refund_")), STORED[14]),
    "latest_named without any": (lambda s: s.latest_named("refund%"), None),
    "known_ids": (
        lambda s: s.known_ids(["grant-1", "no", f"{R1}:settled"]),
        {"grant-1", f"{R1}:settled"},
    ),
    "known_ids of none": (lambda s: s.known_ids([]), set()),
    "charge_of": (lambda s: s.charge_of(R1), (700, f"{R1}:settled")),
    "charge_of an expired one": (lambda s: s.charge_of(R2), (22, f"{R2}:settled_late")),
    "charge_of a released one": (lambda s: s.charge_of("r3"), None),
    # by place
    "cursors": (lambda s: s.cursors(), ENDS),
    "at_places": (
        lambda s: s.at_places(0, 1, [2, 3, 77]),
        {2: ("refund:1", -600), 3: ("r3:released", 0)},
    ),
    "at_places of none": (lambda s: s.at_places(0, 1, []), {}),
    "events_beyond": (
        lambda s: s.events_beyond(1, Place(1, 3)),
        [STORED[11], STORED[12]],
    ),
    "events_beyond, one": (lambda s: s.events_beyond(1, Place(1, 3), 1), [STORED[11]]),
    "events_beyond the end": (lambda s: s.events_beyond(1, Place(2, 0)), []),
    "dead_letters_beyond": (lambda s: s.dead_letters_beyond(1, Place(1, 7)), [LETTERS[1]]),
    "dead_letters_beyond the end": (lambda s: s.dead_letters_beyond(0, Place(1, 9)), []),
    "shard_contents": (
        lambda s: s.shard_contents(1, Place(2, 0)),
        ShardContents(
            Place(2, 1),
            {
                "other": {"settle": 700},
                "zeta": {
                    "grant": 701,
                    "release": 702,
                    "expire": 703,
                    "settle_late": 704,
                    "settle": 700,
                },
            },
            [Span(1, 0, 4, 5), Span(2, 0, 1, 2)],
        ),
    ),
    "shard_contents up to a place": (
        lambda s: s.shard_contents(0, Place(1, 3)),
        ShardContents(
            Place(1, 9),
            {"acme": {"settle": 700, "adjust": -510, "release": 0}},
            [Span(1, 0, 9, 10)],
        ),
    ),
    "shard_contents of an unknown shard": (
        lambda s: s.shard_contents(9, Place(1, 3)),
        ShardContents(None, {}, []),
    ),
    # what went wrong
    "dead_letters": (lambda s: s.dead_letters(), [*LETTERS[::-1]]),
    "dead_letters, one": (lambda s: s.dead_letters(1), [LETTERS[1]]),
    "anomalies": (lambda s: s.anomalies(), [*GAPS[::-1]]),
    "anomalies, one": (lambda s: s.anomalies(1), [GAPS[1]]),
    "contradictions": (
        lambda s: sorted(s.contradictions()),
        ["f_x:released and f_x:expired both ended it", "fax:settled_late has no expiry before it"],
    ),
    # signals
    "signals": (lambda s: s.signals(), [*SIGNALS]),
    "signals, one": (lambda s: s.signals(1), [SIGNALS[-1]]),
    "signals of a customer": (lambda s: s.signals(customer_id="acme"), [*SIGNALS[:2]]),
    "signals that wait": (lambda s: s.signals(state="waiting"), [*SIGNALS]),
    "signals that are dead": (lambda s: s.signals(state="dead"), []),
    # by time
    "rows": (rows(), _by_time(EVENTS)),
    "rows since": (
        rows(since_ms=T0 + 3),
        _by_time(tuple(e for e in EVENTS if e.occurred_at_ms >= T0 + 3)),
    ),
    "rows until": (
        rows(until_ms=T0 + 1),
        _by_time(tuple(e for e in EVENTS if e.occurred_at_ms < T0 + 1)),
    ),
    "rows of a customer": (rows(customer_id="acme"), _by_time(EVENTS[:7])),
    "rows of kinds": (
        rows(kinds=frozenset({"grant", "settle_late"})),
        _by_time((EVENTS[5], EVENTS[8], EVENTS[11])),
    ),
    "rows of no kind": (rows(kinds=frozenset()), []),
    "rows by everything": (
        rows(since_ms=T0, until_ms=T0 + 2, customer_id="acme", kinds=frozenset({"adjust"})),
        [said(row_of(EVENTS[1]))],
    ),
    "past_uses": (lambda s: list(s.past_uses(0, 1 << 48)), USES),
    "past_uses since": (lambda s: list(s.past_uses(CAME, 1 << 48, "acme")), [USES[0]]),
    "past_uses until": (lambda s: list(s.past_uses(0, CAME)), [USES[1]]),
    "past_uses of a customer": (lambda s: list(s.past_uses(0, CAME + 1, "acme")), USES[:2]),
    "count_past_uses": (lambda s: s.count_past_uses(0, 1 << 48), 5),
    "count_past_uses since": (lambda s: s.count_past_uses(CAME, 1 << 48), 4),
    "count_past_uses until": (lambda s: s.count_past_uses(0, CAME), 1),
    "count_past_uses of nobody": (lambda s: s.count_past_uses(0, 1 << 48, "nobody"), 0),
}


def closed(period: str, customer: str = "acme", document: str = "{}") -> ClosedStatement:
    """A closed statement."""
    return ClosedStatement(customer, period, document, "ab", 5)


class ReaderContract:
    """Every question, on a store that a sink has filled; and what holds between answers."""

    @pytest.fixture
    async def store(self, sink: Store, access: StoreAccess) -> AsyncIterator[EventStore]:
        await sink.open()
        for first in range(
            0, len(EVENTS), 4
        ):  # several transactions: positions grow from one to the next
            part = EVENTS[first : first + 4]
            signals = [row for event in part for row in signal_rows(event)]
            await sink.write(Batch([row_of(event) for event in part], signals=signals))
        for letter, gap in zip(LETTERS, GAPS, strict=True):
            await sink.write(Batch((), ENDS, [letter], [gap]))
        with access.open() as store:
            yield store

    def test_every_question_has_its_answer(self, store: EventStore) -> None:
        wrong = {}
        for name, (ask, answer) in QUESTIONS.items():
            found = ask(store)
            if found != answer:
                wrong[name] = (found, answer)
        assert wrong == {}

    async def test_changes_are_found_by_what_their_facts_say(
        self, sink: Store, access: StoreAccess
    ) -> None:
        await sink.open()
        await sink.write(Batch([row_of(event) for event in CHANGES]))
        with access.open() as store:
            found = {name: ask(store) for name, (ask, _) in ASKED_OF_CHANGES.items()}
            (row,) = store.changes(ChangeFilter(actor="webhook:stripe"))
        assert found == {name: answer for name, (_, answer) in ASKED_OF_CHANGES.items()}
        assert said(row) == said(row_of(CHANGES[2]))

    def test_latest_are_the_last_that_arrived_oldest_first(self, store: EventStore) -> None:
        everything = store.latest(100)
        assert [found.event for found in everything] == [*STORED]
        positions = [found.position for found in everything]
        assert positions == sorted(set(positions))
        assert min(positions) > 0
        assert all(found.stored_at_ms > T0 for found in everything)
        assert store.latest(3) == everything[-3:]
        assert store.latest(3, after=positions[-3]) == everything[-2:]
        assert store.latest(2, customer_id="acme") == everything[5:7]
        assert store.latest(9, customer_id="acme", after=positions[4]) == everything[5:7]
        assert store.latest(9, after=positions[-1]) == []

    def test_charges_are_summed_from_a_time_and_a_position(self, store: EventStore) -> None:
        everything = store.latest(100)
        at = {found.event.event_id: found.position for found in everything}
        last, settled = everything[-1].position, at[f"{R1}:settled"]
        newest = at[f"{R2}:repriced_late"]
        found = store.charges_since("acme", 0, 0)
        assert found == ChargeSum(700 + 30 - 8, newest, T0 + 6, last)
        assert store.charges_since("acme", T0 + 4, 0) == ChargeSum(22, newest, T0 + 6, last)
        assert store.charges_since("acme", 0, settled) == ChargeSum(22, newest, T0 + 6, last)
        assert store.charges_since("acme", 0, newest) == ChargeSum(0, 0, 0, last)
        assert store.charges_since("nobody", 0, 0) == ChargeSum(0, 0, 0, last)

    async def test_the_progress_of_an_optional_sink_is_kept_and_never_moves_back(
        self, store: EventStore, sink: Store
    ) -> None:
        assert store.sink_cursors("kafka") == await sink.sink_cursors("kafka") == {}
        letter = DeadLetter(1, 1, 2, "x:settled", "too large", b"{}")
        await sink.note_sink("kafka", {0: Place(1, 3), 1: Place(2, 0)}, [letter])
        await sink.note_sink("kafka", {0: Place(1, 4), 1: Place(1, 9)}, [letter])
        await sink.note_sink("nats", {0: Place(1, 1)})
        for found in (store.sink_cursors("kafka"), await sink.sink_cursors("kafka")):
            assert found == {0: Place(1, 4), 1: Place(2, 0)}
        assert store.sink_cursors("nats") == {0: Place(1, 1)}
        own = store.dead_letters()
        assert letter not in own, "it is the sink's"
        assert store.dead_letters(sink="kafka") == [letter]
        assert letter not in store.dead_letters_beyond(1, Place(1, -1))
        assert store.dead_letter_counts() == {"kafka": 1, **({"": len(own)} if own else {})}
        assert store.cursors() == ENDS

    async def test_an_optional_sink_is_fed_from_beyond_its_places(
        self, store: EventStore, sink: Store
    ) -> None:
        assert store is not None
        beyond = {1: Place(1, 3), 0: Place(1, 6)}
        expected = [said(row_of(EVENTS[n])) for n in (13, 14, 11, 12)]
        assert [said(row) for row in await sink.read_beyond(beyond, 100)] == expected
        assert [said(row) for row in await sink.read_beyond(beyond, 3)] == expected[:3]
        assert await sink.read_beyond({0: Place(1, 8), 7: Place(1, -1)}, 100) == []
        assert await sink.read_beyond({}, 100) == []

    def test_access_shows_the_place_and_the_cursors(
        self, store: EventStore, access: StoreAccess
    ) -> None:
        assert store is not None
        assert access.shown
        for _ in range(2):
            assert access.cursors() == ENDS

    async def test_the_store_has_an_id_that_never_changes(
        self, sink: Store, access: StoreAccess
    ) -> None:
        await sink.open()
        with access.open() as store:
            assert store.store_id() == sink.store_id
        first = sink.store_id
        assert len(first) == 32
        assert int(first, 16)
        await sink.close()
        assert sink.store_id == first, "leases are renewed while the store is away"
        await sink.open()
        assert sink.store_id == first

    def test_before_the_first_export_the_store_is_empty(self, access: StoreAccess) -> None:
        with access.open_or_empty() as store:
            assert store.latest(10) == []
            assert store.cursors() == {}
            assert store.shard_contents(0, Place(1, 0)) == ShardContents(None, {}, [])
            assert list(store.rows(RowFilter())) == []
            assert store.charges_since("acme", 0, 0) == ChargeSum(0, 0, 0, 0)
        assert access.cursors() == {}

    async def test_a_statement_is_kept_once_while_the_exporter_writes(
        self, sink: Store, access: StoreAccess
    ) -> None:
        with pytest.raises(StoreMissing):
            access.keep_statement(closed("2027-01"))
        await sink.open()
        assert access.keep_statement(closed("2027-01")) == closed("2027-01")
        assert access.keep_statement(closed("2027-01", document="other")) == closed("2027-01")
        assert (await sink.write(make_batch(3, 6))).stored == 3
        access.keep_statement(closed("2027-03", document='{"a\'": "\\n"}'))
        access.keep_statement(closed("2027-04", "other"))
        with access.open() as store:
            assert store.closed_statement("acme", "2027-01") == closed("2027-01")
            assert store.closed_statement("acme", "2027-02") is None
            last = store.last_closed_statement("acme")
            assert last == closed("2027-03", document='{"a\'": "\\n"}')
            assert store.last_closed_statement("acme", "2027-03") == closed("2027-01")
            assert store.last_closed_statement("acme", "2027-01") is None
            assert store.last_closed_statement("nobody") is None
