"""A plain REST API on a free port: maps. It records what it is asked; what it answers is simple."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Heard:
    """One request as the API got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RestApi:
    """status and take_s apply to every answer; drawn is the header of a rendering (None: absent),
    json_body the body of a JSON answer (None: a default), cut breaks an export off."""

    url: str = ""
    status: int = 200
    take_s: float = 0.0
    drawn: str | None = "3"
    json_body: str | None = None
    cut: bool = False
    heard: list[Heard] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer by path."""
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.heard.append(Heard(request.method, request.raw_path, headers, body))
        await asyncio.sleep(self.take_s)
        if request.path.endswith("/render"):
            drawn = {} if self.drawn is None else {"x-tiles-drawn": self.drawn}
            return web.Response(
                status=self.status, body=b"\x89PNG" * 10, content_type="image/png", headers=drawn
            )
        if request.path.endswith("/export"):
            response = web.StreamResponse(status=self.status)
            response.content_type = "application/octet-stream"
            await response.prepare(request)
            for _ in range(5):
                await response.write(b"\0" * 1000)
                if self.cut:
                    await asyncio.sleep(0.1)
                    assert request.transport is not None
                    request.transport.abort()
            return response
        if request.method == "DELETE":
            return web.Response(status=204)
        document = {"path": request.path, "heard": len(self.heard)}
        text = json.dumps(document) if self.json_body is None else self.json_body
        return web.Response(status=self.status, body=text, content_type="application/json")


@asynccontextmanager
async def rest_api() -> AsyncIterator[RestApi]:
    """Serve until the block ends."""
    api = RestApi()
    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", api.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()
