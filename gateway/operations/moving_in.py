"""A configuration in the making, taken from another gateway's files, and what could not be carried over."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Section = dict[str, Any]
"""A piece of a configuration file: texts, lists and sections, as YAML writes them."""

_NOT_IN_IDS: Final = re.compile(r"[^A-Za-z0-9._@-]+")
_ID_CHARS_MOST: Final = 128
_WIDTH: Final = 110

_HEAD: Final = """\
# Written by `creditgate init`. Check it with `creditgate check`, and read what it says about prices:
# every price is the provider's cost without a markup.
"""

_BASE: Final[Mapping[str, Any]] = {
    "listen": {"host": "127.0.0.1", "port": "${CREDITGATE_PORT:-8080}"},
    "admin": {"port": "${CREDITGATE_ADMIN_PORT:-8081}"},
    "console": {"port": "${CREDITGATE_CONSOLE_PORT:-8082}"},
    "data_dir": "${CREDITGATE_DATA_DIR:-data}",
    "redis": "${CREDITGATE_REDIS:-embedded}",
}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that was not carried over, or only in part. what: where the other file has it"""

    what: str
    reason: str


@dataclass(slots=True)
class DraftConfiguration:
    """The sections that other files fill in."""

    upstreams: dict[str, Section] = field(default_factory=dict)
    models: dict[str, Section] = field(default_factory=dict)
    plans: dict[str, Section] = field(default_factory=dict)
    customers: dict[str, Section] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, what: str, reason: str) -> None:
        """Note what is not carried over."""
        self.left_out.append(LeftOut(what, reason))


def rendered(draft: DraftConfiguration) -> str:
    """The configuration as YAML, with what was left out in comments at the end."""
    parts = [_HEAD]
    sections: Section = {
        **_BASE,
        "upstreams": draft.upstreams,
        "models": draft.models,
        "plans": draft.plans,
        "customers": draft.customers,
    }
    for name, section in sections.items():
        if section:
            parts.append(
                yaml.safe_dump({name: section}, sort_keys=False, allow_unicode=True, width=_WIDTH)
            )
    return "\n".join(parts) + "".join(_comments(draft))


def usable_id(text: str) -> str:
    """A text as an id of the configuration; "" if nothing of it can be one."""
    return _NOT_IN_IDS.sub("-", text).lstrip("._@-")[:_ID_CHARS_MOST].rstrip("-")


def _comments(draft: DraftConfiguration) -> Iterator[str]:
    if draft.left_out:
        yield "\n# Not carried over:\n"
    for each in draft.left_out:
        yield f"# - {' '.join(each.what.split())}: {' '.join(each.reason.split())}\n"
