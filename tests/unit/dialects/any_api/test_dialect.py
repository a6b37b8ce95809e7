"""A route's own quantities: read from requests and answers, measured, however the bytes arrive."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.dialects.any_api.dialect import AnyApi, Terms
from gateway.dialects.any_api.pointer import Pointer
from gateway.dialects.any_api.quantities import Place, Quantity
from gateway.dialects.base import (
    Answered,
    AnswerFacts,
    Asked,
    BadRequest,
    ForwardOptions,
    ReadOptions,
)

OPTIONS = ReadOptions()
FOUND = Quantity("item", 10, reported=Place(pointer=Pointer.parse("/found")))
SIZE = Quantity("byte", 100, measured="both_bytes")
TIME = Quantity("second", 60, measured="upstream_seconds")
PAGES = Quantity("item", 10, requested=Place(header="x-pages"))


class Clock:
    """Time that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def api(*quantities: Quantity, clock: Clock | None = None, charge_errors: bool = False) -> AnyApi:
    return AnyApi(Terms(quantities, charge_errors=charge_errors), clock or Clock())


def asked(body: bytes = b"", *fields: tuple[str, str]) -> Asked:
    return Asked("POST", "/x", "", fields, body)


def metered(
    dialect: AnyApi,
    pieces: list[bytes],
    *,
    status: int = 200,
    body: bytes = b"12345",
    finish: bool = True,
) -> AnswerFacts:
    facts = dialect.read(asked(body), OPTIONS)
    meter = dialect.meter_answer(facts, Answered(status, (), 0.0), streaming=True)
    assert b"".join(meter.feed(piece) for piece in pieces) == b"".join(pieces)
    if finish:
        assert meter.finish() == b""
    return meter.facts


def cuts(body: bytes) -> Iterator[list[bytes]]:
    yield [body]
    yield [body[at : at + 1] for at in range(len(body))]
    for at in range(1, len(body)):
        yield [body[:at], body[at:]]


@pytest.mark.parametrize("body", [b'{"found": 4, "x": "\\u00e9"}', b"", b"not json", b"[4]"])
def test_an_answer_means_the_same_however_it_is_cut(body: bytes) -> None:
    told = [
        (facts.usage, facts.source, facts.flags)
        for facts in (metered(api(FOUND, SIZE), pieces) for pieces in cuts(body))
    ]
    assert told == told[:1] * len(told)
    items = 4 if body.startswith(b"{") else 10
    assert told[0][0] == {"request": 1, "item": items, "byte": 5 + len(body)}
    assert told[0][1:] == (
        ("provider_reported", ()) if items == 4 else ("estimated", ("usage_missing",))
    )


def test_what_has_passed_is_owed_if_the_rest_never_comes() -> None:
    clock = Clock()
    dialect = api(SIZE, TIME, clock=clock)
    clock.now_s = 1.5
    facts = metered(dialect, [b"123"], finish=False)
    assert (facts.usage, facts.usage_final) == ({"byte": 8, "second": 2}, False)


def test_measured_quantities_end_at_a_hundred_times_their_bound() -> None:
    facts = metered(api(Quantity("byte", 1, measured="response_bytes")), [b"x" * 1000])
    assert facts.usage == {"request": 1, "byte": 100}


@pytest.mark.parametrize("status", [199, 300, 404, 500])
def test_errors_use_nothing_unless_the_route_charges_them(status: int) -> None:
    free = metered(api(FOUND, SIZE), [b"{}"], status=status)
    assert (free.usage, free.error) == (None, True)
    charged = metered(api(FOUND, SIZE, charge_errors=True), [b"{}"], status=status)
    assert charged.usage == {"request": 1, "item": 0, "byte": 7}
    assert charged.flags == ()


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("x-pages", "3"), ("X-Pages", "3")],
        [("x-pages", "3"), ("Connection", "close, X-Pages")],
        [("x-pages", "3"), ("x_pages", "9")],
        [("x-pages", "")],
        [("x-pages", "-1")],
        [("x-pages", "0x3")],
        [("x-pages", "1e1")],
        [("x-pages", "٣")],
        [("x-pages", "11")],
        [("x-pages", "3, 4")],
    ],
)
def test_a_header_that_prices_a_request_has_one_reading(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(BadRequest) as refused:
        api(PAGES).read(asked(b"", *fields), OPTIONS)
    assert refused.value.param == "x-pages"


def test_a_header_s_number_is_held_and_counted() -> None:
    for value, pages in (("3", 3), (" 3 ", 3), ("2.000", 2), ("2.001", 3), ("10", 10)):
        facts = api(PAGES).read(asked(b"", ("X-Pages", value)), OPTIONS)
        assert facts.most == facts.certain == {"item": pages}


@pytest.mark.parametrize(
    ("document", "body"),
    [(b'{"n": 1, "x": [1.50]}', b'{"n":1,"x":[1.5]}'), (b'[{"n": 1}]', b'[{"n":1}]')],
)
def test_what_is_priced_is_forwarded_as_it_was_read(document: bytes, body: bytes) -> None:
    pointer = "/n" if document.startswith(b"{") else "/0/n"
    dialect = api(Quantity("item", 9, requested=Place(pointer=Pointer.parse(pointer))))
    facts = dialect.read(asked(document), OPTIONS)
    assert dialect.forward_body(facts, ForwardOptions("")) == body
    assert dialect.forward_type(facts) == "application/json"


def test_what_is_not_priced_is_forwarded_as_it_came() -> None:
    dialect = api(SIZE)
    facts = dialect.read(asked(b"\xff\x00", ("Content-Type", "image/tiff")), OPTIONS)
    assert dialect.forward_body(facts, ForwardOptions("")) == b"\xff\x00"
    assert dialect.forward_type(facts) == "image/tiff"
    assert facts.most == {"byte": 102}


@pytest.mark.parametrize("value", [float("inf"), {}, None])
def test_a_length_is_one_of_a_text_a_list_or_an_object(value: Any) -> None:
    place = Place(pointer=Pointer.parse("/v"), length=True)
    quantity = Quantity("item", 9, requested=place)
    document = {"v": value}
    if value == {}:
        assert quantity.read(asked(), document) == 0
        return
    with pytest.raises(BadRequest):
        quantity.read(asked(), document)


@pytest.mark.parametrize("rows", [3, 20_000])
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_figure_is_found_in_a_long_answer_and_in_one_that_is_not_quite_json(
    rows: int, where: str
) -> None:
    noise = '"rows":[' + ",".join(['{"a":"%s","b":NaN}' % ("x" * 500)] * rows) + "]"
    body = f'{{"found":"4.0",{noise}}}' if where == "first" else f'{{{noise},"found":"4.0"}}'
    facts = metered(api(FOUND), [body.encode()])
    assert (facts.usage, facts.flags) == ({"request": 1, "item": 4}, ())


@pytest.mark.parametrize(
    ("value", "items"), [([[1, 2]] * 400_000, 400_000), ("é" * 700_000, 700_000)]
)
def test_lists_and_texts_are_measured_up_to_eight_megabytes(value: Any, items: int) -> None:
    place = Place(pointer=Pointer.parse("/v"), length=True)
    counted = Quantity("item", 1_000_000, reported=place)
    body = orjson.dumps({"v": value})
    facts = metered(api(counted), [body[:1000], body[1000:]])
    assert (facts.usage, facts.flags) == ({"request": 1, "item": items}, ())
    long = orjson.dumps({"v": value, "x": "y" * 9_000_000})
    facts = metered(api(counted), [long])
    assert (facts.usage, facts.flags) == ({"request": 1, "item": 1_000_000}, ("usage_missing",))
