"""Drives the primaries with calls that were packed before, so that the client costs next to nothing.

The real client's work is Python and saturates a core before a server does. Here the same bytes are
made ahead, for every ledger the same, and blown over one connection to each primary. Replies are read
by hiredis, and each has to say that its call did what it should.
"""

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hiredis import Reader

from gateway.ledger.client.packing import pack_call
from gateway.ledger.client.scripts import Script, load_scripts
from loadtest.scale.pairs import Kind, pairs_of
from loadtest.scale.servers import Ledger

TOGETHER: Final = 16
"""Pairs that leave in one write: their reserves, then their settles."""
_READ_BYTES: Final = 1 << 16
_GOOD: Final = frozenset({b"held", b"settled"})
_STUCK_S: Final = 30.0


class NotServed(Exception):
    """A call was answered by something else than its success. The message holds the reply."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A reserve and its settle, ready to send."""

    shard: int
    reserve: bytes
    settle: bytes


@dataclass(frozen=True, slots=True)
class Driven:
    """One sample of a ledger; CPU in µs for a pair.

    per_second:  while every primary had work
    redis_us:    of all primaries together
    replicas_us: of all replicas together
    client_us:   of this process
    cores:       how many cores servers and client kept busy
    """

    per_second: float
    redis_us: float
    replicas_us: float
    client_us: float
    cores: float


class Recorder:
    """A runner that keeps every call as the bytes that would be sent, and answers success."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        """See `Runner`."""
        self.calls.append(pack_call(script.sha, keys, args))
        if script.name == "reserve":
            now_ms = time.time_ns() // 1_000_000
            return [b"held", 0, 0, now_ms, now_ms + 60_000]
        return [b"settled", 0, 0, 0, 0, 0]  # of epoch 0: no watermark is taken from it


async def record(kind: Kind, amount: int, prefix: str) -> list[Packed]:
    """Pack so many pairs, for the shards in turn. prefix: of the requests' ids"""
    recorder = Recorder()
    pairs = pairs_of(recorder, kind, prefix)
    shards = [packed.account.shard for packed in pairs.accounts]
    found = []
    for number in range(1, amount + 1):
        await pairs.one()
        shard = shards[number % len(shards)]
        found.append(Packed(shard, *recorder.calls))
        recorder.calls.clear()
    return found


def deal(packed: Sequence[Packed], ledger: Ledger) -> list[list[Packed]]:
    """The pairs of each primary, of each as many."""
    dealt: list[list[Packed]] = [[] for _ in ledger.primaries]
    for pair in packed:
        dealt[ledger.owner(pair.shard)].append(pair)
    least = min(map(len, dealt))
    return [pairs[: least - least % TOGETHER] for pairs in dealt]


def writes(pairs: Sequence[Packed]) -> list[bytes]:
    """What leaves together: `TOGETHER` reserves, then their settles."""
    groups = [pairs[at : at + TOGETHER] for at in range(0, len(pairs), TOGETHER)]
    return [
        b"".join([*(pair.reserve for pair in group), *(pair.settle for pair in group)])
        for group in groups
    ]


class Line:
    """One connection to a primary, and what is still to be sent on it."""

    def __init__(self, ledger: Ledger, number: int, pending: Iterator[bytes]) -> None:
        at = ledger.primaries[number].address
        self.socket = socket.create_connection((at.host, at.port), timeout=_STUCK_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = 0
        self._outstanding = 0
        self._pending = pending
        self._reader = Reader()

    def feed(self) -> None:
        """Keep two writes on their way, so that the server never waits. Counts `TOGETHER` pairs each."""
        while self._outstanding <= 2 * TOGETHER:
            data = next(self._pending, None)
            if data is None:
                return
            self.socket.sendall(data)
            self._outstanding += 2 * TOGETHER

    def read(self) -> None:
        """Take the replies that have come. Raises NotServed."""
        data = self.socket.recv(_READ_BYTES)
        if not data:
            raise NotServed("the server has closed the connection")
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if type(reply) is not list or reply[0] not in _GOOD:
                raise NotServed(repr(reply))
            self.replies += 1
            self._outstanding -= 1

    @property
    def is_done(self) -> bool:
        """Whether all is sent and answered."""
        return not self._outstanding


def drive(ledger: Ledger, dealt: Sequence[Sequence[Packed]]) -> Driven:
    """Send each primary its pairs as fast as it takes them. Raises NotServed."""
    for name in ("reserve", "settle"):
        ledger.load_script(load_scripts()[name].source)
    lines = [Line(ledger, number, iter(writes(pairs))) for number, pairs in enumerate(dealt)]
    try:
        before, own_s, began_s = ledger.spent(), time.process_time(), time.perf_counter()
        first_end_s, first_replies = _run(lines)
        took_s, own_s = time.perf_counter() - began_s, time.process_time() - own_s
        spent = ledger.spent().since(before)
    finally:
        for line in lines:
            line.socket.close()
    done = sum(line.replies for line in lines) / 2
    redis_s = sum(spent.primaries_s)
    return Driven(
        per_second=first_replies / 2 / (first_end_s - began_s),
        redis_us=redis_s * 1e6 / done,
        replicas_us=spent.replicas_s * 1e6 / done,
        client_us=own_s * 1e6 / done,
        cores=(redis_s + spent.replicas_s + own_s) / took_s,
    )


def _run(lines: Sequence[Line]) -> tuple[float, int]:
    """Send and read until all is answered. When the first line was done, and all replies by then."""
    first: tuple[float, int] | None = None
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.socket, selectors.EVENT_READ, line)
            line.feed()
        while selector.get_map():
            ready = selector.select(_STUCK_S)
            if not ready:
                raise NotServed(f"no reply within {_STUCK_S:g} s")
            for key, _ in ready:
                line = key.data
                line.read()
                line.feed()
                if line.is_done:
                    selector.unregister(line.socket)
                    first = first or (time.perf_counter(), sum(each.replies for each in lines))
    assert first is not None, "a ledger has a primary"
    return first
