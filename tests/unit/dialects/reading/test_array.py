"""A JSON array is cut into its elements wherever its bytes are cut."""

import base64

import orjson

from gateway.dialects.base import Answered, Meter, RequestFacts
from gateway.dialects.gemini.generate import Gemini
from gateway.dialects.reading.array import ArraySplitter

ELEMENTS = [b'{"a":"]}{[\\"\\\\"}', b"{}", b'{"b":{"c":[{}]}}', orjson.dumps({"d": "ü\n"})]


def array_meter() -> Meter:
    asked = RequestFacts("m", stream=True, input_bound=1, output_bound=None)
    return Gemini().meter_answer(asked, Answered(200, [], 0.0, b"["), streaming=True)


def test_pieces_are_elements_and_what_stands_before_them() -> None:
    array = b" [" + b" ,\r\n".join(ELEMENTS) + b"]\n"
    wanted = [b" [" + ELEMENTS[0], *(b" ,\r\n" + element for element in ELEMENTS[1:])]
    for at in range(len(array)):
        splitter = ArraySplitter()
        assert splitter.push(array[:at]) + splitter.push(array[at:]) == wanted
        assert splitter.rest() == b"]\n"
    splitter = ArraySplitter()
    assert [piece for b in array for piece in splitter.push(bytes([b]))] == wanted


def test_an_element_too_long_to_be_kept_passes_and_is_read() -> None:
    media = base64.b64encode(b"y" * 1_500_000).decode()
    long = {"candidates": [{"content": {"parts": [{"inlineData": {"data": media}}]}}]}
    last = {"candidates": [{"finishReason": "STOP"}]}
    for usage_in in (long, last):
        usage_in["usageMetadata"] = {"promptTokenCount": 7, "candidatesTokenCount": 9}  # type: ignore[assignment]
        array = b"[" + orjson.dumps(long) + b",\n" + orjson.dumps(last) + b"]"
        for size in (1000, 65_536, len(array)):
            meter = array_meter()
            passed = [meter.feed(array[at : at + size]) for at in range(0, len(array), size)]
            assert b"".join(passed) + meter.finish() == array
            assert meter.facts.usage == {"input": 7, "output": 9}
            assert meter.facts.counted_output == 1
        del usage_in["usageMetadata"]
