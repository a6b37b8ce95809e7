"""Static files of the console, under a path that changes with their content."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

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
            response.headers["cache-control"] = f"public, max-age={_YEAR_S}, immutable"
        return response


@cache
def static_version() -> str:
    """Digest of all static files."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(STATIC)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
