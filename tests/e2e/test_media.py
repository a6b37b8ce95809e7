"""Images, speech and transcriptions through the gate: the official SDK on real sockets, the worked
examples of docs/how-to/media.md, and the rows 39 and 40 of the bad-input catalogue."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from gateway.domain.events import Event
from tests.support.gate import BROKE_KEY, KEY, Gate, running_gate
from tests.support.media_api import MediaApi, media_api
from tests.support.rawhttp import RawAnswer, RawClient

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "media.md").read_text()
EXAMPLES = dict(re.findall(r"^- (.*) → ([\d.]+)$", PAGE, re.MULTILINE))
SOUND = b"RIFF" + b"\0" * 49_996


@pytest.fixture
async def api() -> AsyncIterator[MediaApi]:
    async with media_api() as serving:
        yield serving


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, api: MediaApi) -> AsyncIterator[Gate]:
    """A gate with the configuration of the page."""
    match = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    sections = yaml.safe_load(match[1])
    sections["upstreams"] = {"openai": {"base_url": api.url}}
    async with running_gate(tmp_path, valkey_socket, api.url, **sections) as running:
        yield running


def client_of(gate: Gate, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=key)


async def charged(gate: Gate, example: str) -> Event:
    """The one event charges what the page says; nothing is held."""
    event = await gate.one_event()
    assert await gate.held_nano() == 0
    assert event.amount_nano == await gate.settled_nano()
    assert event.amount_nano == round(float(EXAMPLES[example]) * 10**9)
    return event


def test_every_example_of_the_page_is_checked_here() -> None:
    assert len(EXAMPLES) == 5


async def test_images_are_charged_one_by_one(gate: Gate, api: MediaApi) -> None:
    answer = await client_of(gate).images.generate(
        model="painter", prompt="A low sea.", n=3, size="1024x1024", background="transparent"
    )
    assert answer.data is not None
    assert len(answer.data) == 3
    event = await charged(gate, "painter: 3 images")
    assert event.estimated_amount_nano == event.amount_nano
    assert (event.facts["flags"], event.facts["usage_source"]) == ([], "counted")
    assert api.asked[0]["model"] == "painter"


async def test_images_that_did_not_come_are_not_charged(gate: Gate, api: MediaApi) -> None:
    api.images = 1
    await client_of(gate).images.generate(model="painter", prompt="A low sea.", n=3)
    event = await gate.one_event()
    assert (event.usage, event.amount_nano) == ({"image": 1}, 40_000_000)


async def test_images_by_tokens_are_charged_as_reported(gate: Gate, api: MediaApi) -> None:
    api.usage = {"input_tokens": 100, "output_tokens": 4160, "total_tokens": 4260}
    api.usage["input_tokens_details"] = {"text_tokens": 10, "image_tokens": 90}
    await client_of(gate).images.generate(model="fine-painter", prompt="A low sea.")
    event = await charged(gate, "fine-painter: 100 tokens in, 4160 out")
    assert event.facts["usage_source"] == "provider_reported"
    assert event.estimated_amount_nano >= 7000 * 40_000


async def test_images_by_tokens_that_report_none_are_flagged(gate: Gate, api: MediaApi) -> None:
    await client_of(gate).images.generate(model="fine-painter", prompt="A low sea.")
    event = await gate.one_event()
    assert event.facts["flags"] == ["usage_missing"]


async def test_speech_is_charged_by_the_bytes_that_are_spoken(gate: Gate, api: MediaApi) -> None:
    async with client_of(gate).audio.speech.with_streaming_response.create(
        model="reader", voice="alloy", input="Grüezi."
    ) as spoken:
        assert await spoken.read() == b"\xff\xfb" * 1500
        assert spoken.headers["content-type"] == "audio/mpeg"
    event = await charged(gate, "reader: `Grüezi.`")
    assert (event.facts["flags"], event.facts["usage_source"]) == ([], "counted")


async def test_speech_as_events_reports_its_tokens(gate: Gate, api: MediaApi) -> None:
    async with client_of(gate).audio.speech.with_streaming_response.create(
        model="fine-painter", voice="alloy", input="Hi.", stream_format="sse"
    ) as spoken:
        assert b"speech.audio.done" in await spoken.read()
    event = await gate.one_event()
    assert event.usage == {"input": 14, "output": 101}
    assert event.facts["usage_source"] == "provider_reported"


async def test_speech_that_breaks_off_is_charged_and_cut(gate: Gate, api: MediaApi) -> None:
    api.cut = True
    client = client_of(gate).with_options(max_retries=0)
    with pytest.raises(Exception, match=r"peer closed|incomplete|Connection"):
        await client.audio.speech.create(model="reader", voice="alloy", input="Grüezi.")
    event = await gate.one_event()
    assert (event.kind, event.usage) == ("settle", {"byte": 8})
    assert "upstream_cut" in event.facts["flags"]


async def test_a_transcript_is_charged_by_the_seconds_it_reports(gate: Gate, api: MediaApi) -> None:
    api.usage = {"type": "duration", "seconds": 12.3}
    said = await client_of(gate).audio.transcriptions.create(
        model="listener",
        file=('a "b".wav', SOUND, "audio/wav"),
        prompt="Grüezi",
        timestamp_granularities=["word"],
    )
    assert said.text == "Hello."
    event = await charged(gate, "listener: 12.3 seconds")
    assert event.estimated_amount_nano == 100 * 100_000
    form = api.asked[0]
    assert form["file"][1:] == ("audio/wav", SOUND)
    assert form["model"] == "listener"
    assert form["prompt"] == "Grüezi"


async def test_a_translation_is_read_alike(gate: Gate, api: MediaApi) -> None:
    api.usage = {"type": "duration", "seconds": 3}
    await client_of(gate).audio.translations.create(model="listener", file=("a.mp3", SOUND))
    event = await gate.one_event()
    assert event.usage == {"second": 3}


async def test_a_transcript_that_reports_nothing_is_charged_at_its_bound(
    gate: Gate, api: MediaApi
) -> None:
    said = await client_of(gate).audio.transcriptions.create(
        model="listener", file=("a.wav", SOUND), response_format="text"
    )
    assert said == "Hello.\n"
    event = await charged(gate, "listener: nothing reported of 50000 bytes")
    assert event.facts["flags"] == ["usage_missing"]


async def test_a_streamed_transcript_reports_its_tokens(gate: Gate, api: MediaApi) -> None:
    stream = await client_of(gate).audio.transcriptions.create(
        model="fine-painter", file=("a.wav", SOUND), stream=True
    )
    assert [event.type async for event in stream][-1] == "transcript.text.done"
    event = await gate.one_event()
    assert event.usage == {"input": 14, "output": 5}


async def test_48_absurd_seconds_are_a_capped_estimate(
    gate: Gate, api: MediaApi, subtests: pytest.Subtests
) -> None:
    client = client_of(gate)
    absurd: list[Any] = [-1, "a while", 10**9]
    for count, seconds in enumerate(absurd, 1):
        with subtests.test(str(seconds)):
            api.usage = {"type": "duration", "seconds": seconds}
            await client.audio.transcriptions.create(model="listener", file=("a.wav", SOUND))
            await gate.settle_all()
            event = (await gate.events())[-1]
            assert len(await gate.events()) == count
            assert event.facts["flags"] == ["usage_absurd"]
            assert 0 < event.amount_nano <= event.estimated_amount_nano


async def test_who_cannot_pay_is_refused_before_anything_is_made(gate: Gate, api: MediaApi) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await client_of(gate, BROKE_KEY).audio.transcriptions.create(
            model="listener", file=("a.wav", SOUND)
        )
    assert refused.value.status_code == 402
    assert api.asked == []


# The bad-input catalogue


def field(name: str, value: bytes, extra: bytes = b"") -> bytes:
    head = b'--B\r\nContent-Disposition: form-data; name="%b"\r\n%b\r\n' % (name.encode(), extra)
    return head + value + b"\r\n"


def file(data: bytes = b"RIFF", name: str = "file") -> bytes:
    head = b'--B\r\nContent-Disposition: form-data; name="%b"; filename="a.wav"\r\n\r\n'
    return head % name.encode() + data + b"\r\n"


MODEL = field("model", b"listener")
END = b"--B--\r\n"
JSON_TYPE = b"Content-Type: application/json\r\n"

FORMS: list[tuple[str, bytes, int]] = [
    ("39 two models", MODEL + field("model", b"painter") + file() + END, 400),
    ("39 the same model twice", MODEL + MODEL + file() + END, 400),
    ("39 Model beside model", MODEL + field("Model", b"painter") + file() + END, 400),
    ("39 two files", MODEL + file() + file() + END, 400),
    ("39 JSON in a part", field("model", b'"listener"', JSON_TYPE) + file() + END, 400),
    ("39 JSON for a model", field("model", b'{"a":1}') + file() + END, 404),
    ("39 10k parts", MODEL + field("include[]", b"x") * 10_000 + file() + END, 413),
    (
        "39 part headers too long",
        MODEL + field("prompt", b"x", b"X-A: %b\r\n" % (b"a" * 5000)) + file() + END,
        413,
    ),
    ("39 many part headers", MODEL + field("prompt", b"x", b"X-A: b\r\n" * 9) + file() + END, 413),
    (
        "39 a part header twice",
        MODEL + field("prompt", b"x", b"X-A: b\r\nX-A: c\r\n") + file() + END,
        400,
    ),
    (
        "40 a part in another charset",
        MODEL
        + field("prompt", b"\xfc", b"Content-Type: text/plain; charset=latin-1\r\n")
        + file()
        + END,
        400,
    ),
    (
        "39 a coded part",
        MODEL + field("prompt", b"eA==", b"Content-Transfer-Encoding: base64\r\n") + file() + END,
        400,
    ),
    ("39 an unknown part", MODEL + field("api_base", b"http://x") + file() + END, 400),
    ("39 a file for a model", file(b"listener", "model") + file() + END, 400),
    ("39 a text for a file", MODEL + field("file", b"RIFF") + END, 400),
    ("39 no file", MODEL + END, 400),
    ("39 an empty file", MODEL + file(b"") + END, 400),
    ("39 no model", file() + END, 400),
    ("39 a model in bad UTF-8", field("model", b"\xff") + file() + END, 400),
    ("39 a model with NUL", field("model", b"list\0ener") + file() + END, 400),
    ("39 no end", MODEL + file(), 400),
    ("39 something behind the end", MODEL + file() + END + b"x" + MODEL, 400),
    ("39 two ends", MODEL + file() + END + END, 400),
    ("39 something before the first part", b"x\r\n" + MODEL + file() + END, 400),
    ("39 a bare LF", (MODEL + file() + END).replace(b"\r\n", b"\n"), 400),
    ("39 another boundary", (MODEL + file() + END).replace(b"--B", b"--C"), 400),
    ("39 a body that is empty", b"", 400),
    ("39 a prompt of 100 KB", MODEL + field("prompt", b"x" * 100_000) + file() + END, 413),
    ("28 an unpriced model", field("model", b"unheard-of") + file() + END, 404),
    ("30 a stream that is neither", MODEL + field("stream", b"1") + file() + END, 400),
]


async def send_form(
    gate: Gate, body: bytes, content_type: bytes = b"multipart/form-data; boundary=B"
) -> RawAnswer:
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    client.send(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n"
        b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n"
        % (KEY.encode(), content_type, len(body))
        + body
    )
    answer = await client.answer(within_s=20)
    await client.close()
    return answer


async def nothing_moved(gate: Gate, api: MediaApi) -> None:
    await gate.settle_all()
    assert api.asked == []
    assert await gate.events() == []
    assert (await gate.held_nano(), await gate.settled_nano()) == (0, 0)


async def test_39_a_form_that_has_no_one_reading_is_refused(
    gate: Gate, api: MediaApi, subtests: pytest.Subtests
) -> None:
    for row, body, status in FORMS:
        with subtests.test(row):
            answer = await send_form(gate, body)
            assert answer.status == status, answer.body
            assert json.loads(answer.body)["error"]["message"]
            await nothing_moved(gate, api)


FORM_TYPE = b"multipart/form-data; "
TYPES: list[tuple[bytes, int]] = [
    (b"multipart/form-data", 400),
    (FORM_TYPE + b"boundary=", 400),
    (FORM_TYPE + b"boundary=" + b"B" * 71, 400),
    (FORM_TYPE + b'boundary="B\\""', 400),
    (FORM_TYPE + b"boundary=B; boundary=C", 400),
    (FORM_TYPE + b"charset=x; boundary=B", 400),
    (FORM_TYPE + b"boundary=B\r\nContent-Type: multipart/form-data; boundary=C", 400),
    (b"multipart/mixed; boundary=B", 415),
    (b"application/json", 415),
]


async def test_39_a_boundary_has_one_reading(
    gate: Gate, api: MediaApi, subtests: pytest.Subtests
) -> None:
    for content_type, status in TYPES:
        with subtests.test(repr(content_type)):
            answer = await send_form(gate, MODEL + file() + END, content_type)
            assert answer.status == status, answer.body
            await nothing_moved(gate, api)


async def send_chunked(
    gate: Gate, body: bytes, content_type: bytes, *, chunk_bytes: int = 1000
) -> RawAnswer:
    """POST a form without saying its size."""
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    client.send(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n"
        b"Content-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % (KEY.encode(), content_type)
    )
    for at in range(0, len(body), chunk_bytes):
        piece = body[at : at + chunk_bytes]
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    client.send(b"0\r\n\r\n")
    answer = await client.answer()
    await client.close()
    return answer


async def test_40_a_chunked_form_with_part_headers_and_a_charset_is_read(
    gate: Gate, api: MediaApi, subtests: pytest.Subtests
) -> None:
    plain = b"Content-Type: text/plain; charset=UTF-8\r\nContent-Length: 5\r\n"
    odd = b"Content-Transfer-Encoding: 8bit\r\nX-A: b\r\n"
    body = MODEL + field("prompt", b"Hello", plain + odd) + file() + END
    types = (
        FORM_TYPE + b"boundary=B",
        FORM_TYPE + b"charset=utf-8; boundary=B",
        b'Multipart/Form-Data;boundary="B"; charset="UTF-8"',
    )
    for count, content_type in enumerate(types, 1):
        with subtests.test(repr(content_type)):
            answer = await send_chunked(gate, body, content_type)
            assert answer.status == 200, answer.body
            await gate.settle_all()
            models = [event.facts["model"] for event in await gate.events()]
            assert models == ["listener"] * count


async def test_40_a_chunked_form_over_the_limit_is_413(gate: Gate, api: MediaApi) -> None:
    limit = gate.settings.listen.max_body_bytes
    body = MODEL + file(bytes(limit)) + END
    kind = b"multipart/form-data; boundary=B"
    answer = await send_chunked(gate, body, kind, chunk_bytes=100_000)
    assert answer.status == 413
    await nothing_moved(gate, api)


async def test_24_a_form_over_the_limit_is_413(gate: Gate, api: MediaApi) -> None:
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    client.send(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n"
        b"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: 999999999\r\n\r\n"
        % KEY.encode()
    )
    answer = await client.answer()
    assert answer.status == 413
    await client.close()
    await nothing_moved(gate, api)


PICTURE = {"model": "painter", "prompt": "x"}
SPEECH = {"model": "reader", "voice": "v"}
UNBOUNDED: list[tuple[str, dict[str, Any]]] = [
    *(
        ("/v1/images/generations", body)
        for body in (
            {"model": "painter"},
            {**PICTURE, "n": 0},
            {**PICTURE, "n": "2"},
            {**PICTURE, "stream": True},
            {**PICTURE, "partial_images": 3},
            {**PICTURE, "background": True},
        )
    ),
    *(
        ("/v1/audio/speech", body)
        for body in (
            SPEECH,
            {**SPEECH, "input": ["a"]},
            {**SPEECH, "input": "a", "Input": "b"},
            {**SPEECH, "input": "a", "n": 5},
        )
    ),
]


async def test_what_has_no_bound_is_refused(
    gate: Gate, api: MediaApi, subtests: pytest.Subtests
) -> None:
    for path, body in UNBOUNDED:
        with subtests.test(str(body)):
            answer = await gate.post(path, body)
            assert answer.status_code == 400
            assert answer.json()["error"]["message"]
            await nothing_moved(gate, api)


async def test_47_a_form_s_retry_is_the_same_under_another_boundary(
    gate: Gate, api: MediaApi
) -> None:
    headers = {"authorization": f"Bearer {KEY}", "idempotency-key": "k-1"}
    for boundary in ("one", "two"):
        body = (MODEL + file() + END).replace(b"--B", b"--" + boundary.encode())
        kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
        path = "/v1/audio/transcriptions"
        answer = await gate.client.post(path, content=body, headers={**headers, **kind})
        assert answer.status_code != 422
    assert len(api.asked) == 1
    other = (MODEL + file(b"RIFX") + END).replace(b"--B", b"--two")
    answer = await gate.client.post(path, content=other, headers={**headers, **kind})
    assert answer.status_code == 422
