"""Where a request goes at its upstream: the base URL's path, the request's path, the query.

SDKs write the version into the base URL (`https://api.openai.com/v1`), and callers of the gate send
it in the path (`/v1/chat/completions`). Read as a plain prefix that would double it, so a version at
the end of a base URL replaces the one at the start of a request's path. Two bases of providers end
otherwise and still hold the version: Azure's deployments and Gemini's OpenAI endpoint.
"""

import re
from typing import Final
from urllib.parse import unquote_plus

_VERSION: Final = r"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?"
_VERSIONED_BASE: Final = re.compile(
    rf".*(?:{_VERSION}|{_VERSION}/openai|/openai/deployments/[^/]+)", re.ASCII
)
_VERSIONED_PATH: Final = re.compile(rf"{_VERSION}(?=/)", re.ASCII)


def join_path(base: str, path: str) -> str:
    """The path at the upstream. base: the base URL's path without a slash at its end."""
    if base and _VERSIONED_BASE.fullmatch(base):
        return base + _without_version(path)
    return base + path


def _without_version(path: str) -> str:
    version = _VERSIONED_PATH.match(path)
    return path if version is None else path[version.end() :]


def join_query(target: str, added: str) -> str:
    """A target with query parameters added; they replace the target's own of the same name.

    added: encoded, without the question mark; may be empty
    """
    if not added:
        return target
    path, _, query = target.partition("?")
    names = {_name(parameter) for parameter in added.split("&")}
    kept = [each for each in query.split("&") if each and _name(each) not in names]
    return f"{path}?{'&'.join((*kept, added))}"


def _name(parameter: str) -> str:
    return unquote_plus(parameter.partition("=")[0])
