"""Commands as the bytes that the hot path sends."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from gateway.ledger.client.connection import Wire, pack

ASKING: Final = pack((b"ASKING",))
_COUNTS: Final = tuple(b"%d" % count for count in range(64))
_BEGINS: Final = tuple(b"*%d\r\n$7\r\nEVALSHA" % count for count in range(128))
_LENGTHS: Final = tuple(b"\r\n$%d\r\n" % length for length in range(4096))

_length_of: Final = _LENGTHS.__getitem__


def pack_call(sha: bytes, keys: Sequence[bytes], args: Sequence[bytes]) -> bytes:
    """EVALSHA as RESP. The lengths between the words come from a table: hiredis formats each of them,
    at three times the cost of the rest."""
    words = (sha, _COUNTS[len(keys)], *keys, *args)
    try:
        pairs = zip(map(_length_of, map(len, words)), words)  # noqa: B905 - one length a word
        return b"".join((_BEGINS[1 + len(words)], *chain.from_iterable(pairs), b"\r\n"))
    except IndexError:  # a word that is seldom so long
        return pack((b"EVALSHA", *words))


async def send_together(wire: Wire, packed: Sequence[bytes]) -> Any:
    """Commands that nothing may come between; the last one's reply."""
    *before, last = packed
    for each in before:
        wire.send(each, again=True)
    return await wire.send(last, again=True)
