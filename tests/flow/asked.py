"""A request without a connection, for parts of the flow that only look at it."""

from collections.abc import Callable

import orjson

from gateway.http.interface import Exchange, RequestHead
from tests.support.fields import parse_fields


class Asked(Exchange):
    """What a caller sent; what it is answered stands in `answered`."""

    def __init__(
        self,
        *headers: tuple[str, str],
        key: str | None = None,
        remote: str = "127.0.0.1",
        method: str = "GET",
        path: str = "/",
    ) -> None:
        fields = list(headers)
        if key is not None:
            fields.append(("Authorization", f"Bearer {key}"))
        self.head = RequestHead(method, path, "", fields)
        self.method, self.path, self.query = method, path, ""
        self.remote = remote
        self.status = 0
        self.also = b""
        self.owner = ""
        self.content_length = 0
        self.answered: tuple[int, dict[str, str], bytes] = (0, {}, b"")

    @property
    def document(self) -> dict[str, object]:
        """The answer's JSON."""
        document: dict[str, object] = orjson.loads(self.answered[2])
        return document

    async def read_body(self, limit_bytes: int) -> bytes:
        raise NotImplementedError

    async def start(
        self, status: int, fields: bytes, length: int | None, *, more: bool = False
    ) -> None:
        self.status = status
        named = {name.decode(): value.decode() for name, value in parse_fields(fields)}
        self.answered = (status, named, b"")

    async def write(self, data: bytes, *, more: bool = False) -> None:
        status, headers, body = self.answered
        self.answered = (status, headers, body + data)

    async def end(self) -> None:
        """All was kept."""

    def abort(self) -> None:
        raise NotImplementedError

    def client_gone(self) -> bool:
        return False

    def on_gone(self, callback: Callable[[], None]) -> None:
        raise NotImplementedError
