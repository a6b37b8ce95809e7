"""A request without a connection, for parts of the flow that only look at it."""

from collections.abc import Callable, Sequence

import orjson

from gateway.http.interface import Exchange


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
        self.method, self.path, self.query, self.remote = method, path, "", remote
        self._headers = list(headers)
        if key is not None:
            self._headers.append(("Authorization", f"Bearer {key}"))
        self.answered: tuple[int, dict[str, str], bytes] = (0, {}, b"")

    @property
    def document(self) -> dict[str, object]:
        """The answer's JSON."""
        document: dict[str, object] = orjson.loads(self.answered[2])
        return document

    def header(self, name: str) -> str | None:
        return next(iter(self.header_values(name)), None)

    def header_values(self, name: str) -> list[str]:
        return [value for n, value in self._headers if n.lower() == name.lower()]

    def headers(self) -> list[tuple[str, str]]:
        return self._headers

    async def read_body(self, limit_bytes: int) -> bytes:
        raise NotImplementedError

    async def start(
        self, status: int, headers: Sequence[tuple[str, str]], length: int | None
    ) -> None:
        self.status = status
        self.answered = (status, dict(headers), b"")

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
