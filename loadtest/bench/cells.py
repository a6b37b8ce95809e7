"""The workloads of the benchmark: what is sent, how much of it at once, to which upstream. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson

from loadtest.gate import MODEL, TLS_MODEL
from loadtest.requests import CHAT_PATH, CLIENT_HEADERS, Shot, chat_body, http_request

KEY: Final = "sk-load"
TOKENS: Final = 62
PACED_ITL_MS: Final = 20
SMALL_BYTES: Final = 950
LARGE_BYTES: Final = 2**20
MODELS: Final[Mapping[str, str]] = {"plain": MODEL, "tls": TLS_MODEL}
"""The model's name for each upstream."""

JSON_32: Final = "JSON c=32"
JSON_256: Final = "JSON c=256"
JSON_LARGE: Final = "JSON 1 MB c=8"
JSON_RATE: Final = "JSON 1,000/s"
BURST: Final = "SSE burst c=32"
PACED: Final = "paced SSE c=100"


@dataclass(frozen=True, slots=True)
class Cell:
    """A workload, and the upstream behind it.

    connections: how many at most, each with one request at a time
    itl_ms:      between two tokens of an answer; 0 sends it at once
    body_bytes:  of a request's body
    rate:        requests a second in open loop; None is closed loop
    """

    workload: str
    upstream: Literal["plain", "tls"]
    stream: bool = False
    connections: int = 32
    itl_ms: int = 0
    body_bytes: int = SMALL_BYTES
    rate: float | None = None

    @property
    def name(self) -> str:
        """Workload and upstream."""
        return f"{self.workload}, {self.upstream} upstream"

    def shot(
        self,
        fields: Mapping[str, str],
        members: Mapping[str, Any] = MappingProxyType({}),
        path: str = CHAT_PATH,
    ) -> Shot:
        """Build its request: an SDK's eleven header fields and body, with what a contender needs.

        fields:  header fields to add
        members: of the body, to add or to replace
        """
        line = f"sim: tokens={TOKENS}" + (f" itl_ms={self.itl_ms}" if self.itl_ms else "")
        model = MODELS[self.upstream]
        body = chat_body(model, stream=self.stream, size_bytes=self.body_bytes, line=line)
        return Shot(http_request(path, with_members(body, members), headers(fields)))


def with_members(body: bytes, members: Mapping[str, Any]) -> bytes:
    """Add these members to a JSON object, or replace them."""
    return orjson.dumps({**orjson.loads(body), **members}) if members else body


def headers(fields: Mapping[str, str]) -> dict[str, str]:
    """What a caller sends: an SDK's header fields, the key, and these."""
    return {**CLIENT_HEADERS, "authorization": f"Bearer {KEY}", **fields}


def _of(upstream: Literal["plain", "tls"]) -> tuple[Cell, ...]:
    return (
        Cell(JSON_32, upstream),
        Cell(JSON_256, upstream, connections=256),
        Cell(BURST, upstream, stream=True),
        Cell(PACED, upstream, stream=True, connections=100, itl_ms=PACED_ITL_MS),
        Cell(JSON_LARGE, upstream, connections=8, body_bytes=LARGE_BYTES),
    )


CELLS: Final = (*_of("plain"), Cell(JSON_RATE, "plain", connections=256, rate=1000.0), *_of("tls"))
