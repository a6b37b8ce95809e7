"""Which key a command names, and so which node it is for."""

from collections.abc import Sequence
from typing import Any, Final

_KEYLESS: Final = frozenset({"TIME", "PUBLISH", "PING", "INFO", "CONFIG GET"})


def is_keyless(args: Sequence[Any]) -> bool:
    """Whether a command names no key: it says nothing that differs between nodes."""
    return name_of(args) in _KEYLESS


def key_of(args: Sequence[Any]) -> bytes:
    """The first key of a command. Raises ValueError for one that the ledger does not use."""
    name = name_of(args)
    if name in ("EVALSHA", "EVAL"):
        key = args[3]
    elif name in ("XREAD",):
        key = args[[name_of((word,)) for word in args].index("STREAMS") + 1]
    else:
        key = args[1]
    if isinstance(key, str):
        key = key.encode()
    if not isinstance(key, bytes) or not key.startswith(b"{"):
        raise ValueError(f"{name} names no key of the ledger")
    return key


def name_of(args: Sequence[Any]) -> str:
    word = args[0]
    return (word.decode(errors="replace") if isinstance(word, bytes) else str(word)).upper()
