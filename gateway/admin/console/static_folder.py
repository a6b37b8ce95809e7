"""Static files of the console, under a path that changes with their content."""

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC: Final = Path(__file__).parent / "static"
_YEAR_S: Final = 31_536_000


class StaticFolder(StaticFiles):
    """Serves `VERSION/FILE`: browsers keep it, and never ask again. Any other path is not found."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file."""
        version, _, name = path.partition("/")
        current = version == static_version()
        response = await super().get_response(name if current else "", scope)
        if response.status_code == 200:
            smaller = _compressed(name) if _takes_gzip(scope) else None
            if smaller is not None:
                kept = {name: response.headers[name] for name in ("content-type", "etag")}
                response = Response(smaller, headers={**kept, "content-encoding": "gzip"})
            response.headers["cache-control"] = f"public, max-age={_YEAR_S}, immutable"
            response.headers["vary"] = "accept-encoding"
        return response


@cache
def _compressed(name: str) -> bytes | None:
    """A file in gzip, made once; None for one that is hardly smaller so."""
    content = (STATIC / name).read_bytes()
    smaller = gzip.compress(content, mtime=0)
    return smaller if len(smaller) < 0.9 * len(content) else None


def _takes_gzip(scope: Scope) -> bool:
    codings = Headers(scope=scope).get("accept-encoding", "").split(",")
    return scope["method"] == "GET" and any(
        coding.replace(" ", "") in ("gzip", "gzip;q=1.0") for coding in codings
    )


@cache
def static_version() -> str:
    """Digest of all static files."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(STATIC)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
