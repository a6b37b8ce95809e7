"""Rows are what reading the entry in full gives, whatever lies in the outbox."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgpack import packb

from gateway.domain.delivery import DeadLetter, Place
from gateway.domain.event_rows import event_of, row_of, signal_rows
from gateway.domain.events import Event
from gateway.domain.usage import UNIT_NUMBERS
from gateway.domain.usage_facts import RequestLabels, UsageFacts
from gateway.ledger.codec.outbox_entries import decode_entry
from gateway.ledger.codec.outbox_rows import RowDecoder
from gateway.ledger.codec.usage_facts import FactsPacker
from tests.support.outbox_entries import entries_of

texts = st.text(max_size=8)
tricky = st.sampled_from(["request_id", "\xaarequest_id", "customer_id", "a\0b", ""])
labels = st.builds(
    RequestLabels,
    customer_id=st.sampled_from(["acme", "acme2", "zeta"]) | texts,
    project_id=st.none() | texts,
    key_id=texts,
    route=texts,
    model=texts | tricky,
    upstream=texts,
    price_version=texts,
    livemode=st.booleans(),
    tags=st.dictionaries(texts | tricky, texts | tricky, max_size=3),
)
numbers = st.integers(-(2**53), 2**53)
usage = st.dictionaries(st.sampled_from(sorted(UNIT_NUMBERS.values())), st.integers(0, 10**12))
pairs = st.lists(st.tuples(st.integers(0, 40), numbers), max_size=3)


@st.composite
def ordinary_facts(draw: Any) -> bytes:
    """As the gate packs them."""
    facts = UsageFacts(draw(texts), retry_of=draw(st.none() | texts))
    facts.service_tier = draw(st.none() | st.just("flex"))
    facts.response_model = draw(st.none() | texts | tricky)
    facts.http_status = draw(st.none() | st.integers(100, 599))
    facts.finish_reason = draw(st.none() | tricky)
    facts.duration_ms = draw(st.integers(0, 10**7))
    facts.usage_source = "provider_reported"
    facts.flags = draw(st.lists(texts, max_size=2))
    packer = FactsPacker(draw(labels))
    return packer.pack_ended(facts) if draw(st.booleans()) else packer.pack_admitted(facts)


@st.composite
def stamps(draw: Any) -> bytes:
    """What a script writes, with a signal now and then."""
    flat = [part for pair in draw(usage).items() for part in pair]
    paid = [part for pair in draw(pairs) for part in pair]
    cost = draw(st.just(False) | numbers)
    stamp = ["settle", draw(texts), draw(st.integers(0, 2**45)), draw(numbers), 5, cost, 7]
    signals = draw(st.lists(st.just(["low_balance", 5]), max_size=1))
    packed: bytes = packb([*stamp, paid, flat, *([signals] if signals else [])])
    return packed


damaged = st.one_of(
    st.binary(max_size=20),
    st.builds(packb, st.dictionaries(texts, st.binary(max_size=3) | numbers, max_size=3)),
)


@given(st.lists(st.tuples(stamps() | damaged, ordinary_facts() | damaged), min_size=1, max_size=6))
def test_rows_say_what_full_reading_says(entries: list[tuple[bytes, bytes]]) -> None:
    decoder = RowDecoder()
    raw = [(b"3-%d" % n, [b"s", stamp, b"f", facts]) for n, (stamp, facts) in enumerate(entries)]
    for _ in range(2):  # the second time with all labels known
        tail = decoder.decode(5, raw)
        wanted = [decode_entry(5, entry_id, fields) for entry_id, fields in raw]
        events = [entry for entry in wanted if isinstance(entry, Event) and says_json(entry)]
        assert tail.rows == [row_of(event) for event in events]
        assert tail.signals == [row for event in events for row in signal_rows(event)]
        buried = [e for e in wanted if isinstance(e, DeadLetter) or not says_json(e)]
        assert [letter.seq for letter in tail.dead] == [entry.seq for entry in buried]
        assert tail.places() == [Place(3, n) for n in range(len(raw))]
        assert tail.contiguous


def says_json(event: Event) -> bool:
    try:
        row_of(event)
    except TypeError:
        return False
    return True


def test_a_row_is_its_event_again() -> None:
    facts = packb({"customer_id": "acme", "request_id": "r1", "tags": {"a": "b"}})
    stamp = packb(["settle", "r1:settled", 5, 6, 7, False, 8, [1, 6], [1, 12]])
    event = decode_entry(0, b"1-0", [b"s", stamp, b"f", facts])
    assert isinstance(event, Event)
    assert event_of(row_of(event)) == event


def test_what_json_cannot_say_is_a_dead_letter_with_all_of_its_bytes() -> None:
    facts = packb({"customer_id": "acme", "raw": b"bytes"})
    stamp = packb(["settle", "r1:settled", 5, 6, 7, False, 8, [1, 6], [1, 12]])
    tail = RowDecoder().decode(0, [(b"1-0", [b"s", stamp, b"f", facts])])
    ((letter),) = tail.dead
    assert letter.event_id == "r1:settled"
    assert letter.reason.startswith("not JSON")
    assert facts in letter.payload


def test_a_missing_place_is_seen_by_counting() -> None:
    facts = packb({"customer_id": "acme"})
    stamp = packb(["settle", "r1:settled", 5, 6, 7, False, 8, [1, 6], [1, 12]])
    fields = [b"s", stamp, b"f", facts]
    assert not RowDecoder().decode(0, [(b"1-0", fields), (b"1-2", fields)]).contiguous
    assert not RowDecoder().decode(0, [(b"1-9", fields), (b"2-0", fields)]).contiguous
    tail = RowDecoder().decode(0, [(b"1-8", fields), (b"1-9", fields)])
    assert tail.contiguous
    assert len(entries_of(tail)) == 1  # one id, twice
