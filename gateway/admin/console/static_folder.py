"""Static files of the console."""

from typing import Final

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_YEAR_S: Final = 31_536_000


class StaticFolder(StaticFiles):
    """Files that browsers keep: the URLs in pages change with the files."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file."""
        response = await super().get_response(path, scope)
        if response.status_code == 200 and scope["query_string"].startswith(b"v="):
            response.headers["cache-control"] = f"public, max-age={_YEAR_S}, immutable"
        return response
