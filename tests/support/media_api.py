"""OpenAI's images and audio on a free port: answers in the documented shapes, forms read by another
parser than the gate's. The test sets the rest of its answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web


@dataclass
class MediaApi:
    """usage: reported with an answer; images: how many come (None: as many as requested)."""

    url: str = ""
    usage: Any = None
    images: int | None = None
    cut: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Images."""
        body = await request.json()
        self.asked.append(body)
        count = body.get("n", 1) if self.images is None else self.images
        document = {"created": 1, "data": [{"b64_json": "aGk="}] * count}
        return web.json_response(
            document if self.usage is None else {**document, "usage": self.usage}
        )

    async def speak(self, request: web.Request) -> web.StreamResponse:
        """Sound, or events."""
        body = await request.json()
        self.asked.append(body)
        response = web.StreamResponse()
        events = body.get("stream_format") == "sse"
        response.content_type = "text/event-stream" if events else "audio/mpeg"
        await response.prepare(request)
        for _ in range(3):
            delta = b'data: {"type":"speech.audio.delta","audio":"aGk="}\n\n'
            await response.write(delta if events else b"\xff\xfb" * 500)
            if self.cut:
                assert request.transport is not None
                await response.drain()
                request.transport.abort()
                return response
        if events:
            await response.write(
                b'data: {"type":"speech.audio.done","usage":'
                b'{"input_tokens":14,"output_tokens":101,"total_tokens":115}}\n\n'
            )
        return response

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """A transcript."""
        reader = await request.multipart()
        form: dict[str, Any] = {}
        async for part in reader:
            assert isinstance(part, BodyPartReader)
            assert part.name is not None
            assert part.name not in form, "a part comes twice"
            if part.filename is None:
                form[part.name] = await part.text()
            else:
                kind = part.headers["content-type"]
                form[part.name] = (part.filename, kind, bytes(await part.read()))
        self.asked.append(form)
        if form.get("response_format") in ("text", "srt", "vtt"):
            return web.Response(text="Hello.\n")
        if form.get("stream") == "true":
            return web.Response(
                body=b'data: {"type":"transcript.text.delta","delta":"Hello."}\n\n'
                b'data: {"type":"transcript.text.done","text":"Hello.","usage":{"type":"tokens",'
                b'"input_tokens":14,"input_token_details":{"text_tokens":4,"audio_tokens":10},'
                b'"output_tokens":5,"total_tokens":19}}\n\n',
                content_type="text/event-stream",
            )
        document = {"text": "Hello."}
        return web.json_response(
            document if self.usage is None else {**document, "usage": self.usage}
        )


@asynccontextmanager
async def media_api() -> AsyncIterator[MediaApi]:
    """Serve until the block ends."""
    api = MediaApi()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/images/generations", api.generate)
    app.router.add_post("/v1/audio/speech", api.speak)
    app.router.add_post("/v1/audio/transcriptions", api.transcribe)
    app.router.add_post("/v1/audio/translations", api.transcribe)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()
