"""A request without a connection, for parts of the flow that only look at it."""

from collections.abc import Callable

import orjson

from gateway.http.interface import Exchange, RequestHead


class Asked(Exchange):
    """What a caller sent; what it is answered stands in `answered`."""

    def __init__(
        self,
        *headers: tuple[str, str],
        key: str | None = None,
        remote: str = "127.0.0.1",
        method: str = "GET",
        path: str = "/",
        query: str = "",
    ) -> None:
        fields = list(headers)
        if key is not None:
            fields.append(("Authorization", f"Bearer {key}"))
        self.head = RequestHead(method, path, query, fields)
        self.content_length, self.remote, self.owner = 0, remote, ""
        self.status, self.also = 0, b""
        self.answered: tuple[int, dict[str, str], bytes] = (0, {}, b"")

    @property
    def document(self) -> dict[str, object]:
        """The answer's JSON."""
        document: dict[str, object] = orjson.loads(self.answered[2])
        return document

    async def read_body(self, limit_bytes: int) -> bytes:
        raise NotImplementedError

    async def start(self, status: int, fields: bytes, length: int | None) -> None:
        self.status = status
        lines = fields.decode("latin-1").split("\r\n")[:-1]
        self.answered = (status, dict(line.split(": ", 1) for line in lines), b"")

    async def write(self, data: bytes) -> None:
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
