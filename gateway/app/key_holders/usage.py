"""`GET /v1/usage`: what a key's customer used in a period, by day, model, key or project."""

import asyncio
import datetime as dt
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from gateway.app.key_holders.reading import StoreReads
from gateway.domain.delivery import START, Place
from gateway.domain.money import format_amount
from gateway.domain.reservation import Account
from gateway.domain.stores import EventStore
from gateway.domain.usage_sums import USAGE_GROUPS, UsageGroup, UsageQuestion, UsageSum
from gateway.flow.refusals import Refused
from gateway.http.interface import Exchange, encode_fields
from gateway.ledger.outbox import Outbox
from gateway.operations.documents import timestamp

DAY_MS: Final = 86_400_000
DEFAULT_DAYS: Final = 30
MAX_DAYS: Final = 92
MAX_LINES: Final = 500
MAX_AGE_S: Final = 5.0
"""An answer is given again until it is older."""
MAX_KEPT: Final = 256

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class Used:
    """Sums, and how fresh they are. as_of_ms: every charge before it is included; Unix ms"""

    question: UsageQuestion
    as_of_ms: int
    sums: list[UsageSum]


class UsageReader:
    """Sums up customers' usage. clock: Unix ms"""

    def __init__(
        self,
        reads: StoreReads,
        outbox: Outbox,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._reads = reads
        self._outbox = outbox
        self._clock = clock
        self._kept: OrderedDict[tuple[object, ...], tuple[float, Used]] = OrderedDict()
        self._asking: dict[tuple[object, ...], asyncio.Task[Used]] = {}

    async def read(
        self, account: Account, by: UsageGroup, since_ms: int | None, until_ms: int | None
    ) -> Used:
        """One customer's usage; of the last 30 days, up to now, unless said otherwise.

        Raises Refused, LedgerUnavailable.
        """
        name = (account.customer_id, by, since_ms, until_ms)
        found = self._kept.get(name)
        if found is not None and time.monotonic() - found[0] < MAX_AGE_S:
            return found[1]
        asking = self._asking.get(name)
        if asking is None:
            now_ms = self._clock()
            end_ms = now_ms if until_ms is None else until_ms
            begin_ms = end_ms - DEFAULT_DAYS * DAY_MS if since_ms is None else since_ms
            question = UsageQuestion(account.customer_id, begin_ms, end_ms, by)
            asking = asyncio.create_task(self._ask(account.shard, question, now_ms))
            self._asking[name] = asking
            asking.add_done_callback(lambda done: self._keep(name, done))
        # One caller that leaves must not cancel the question of the others.
        return await asyncio.shield(asking)

    async def _ask(self, shard: int, question: UsageQuestion, now_ms: int) -> Used:
        def ask(store: EventStore) -> tuple[Place, list[UsageSum]]:
            # The cursor first: what arrives meanwhile is counted as not included.
            return store.cursors().get(shard, START), store.usage_by(question)

        stored, sums = await self._reads.ask(question.customer_id, ask)
        waiting_ms = await self._outbox.oldest_ms({shard: stored}, only=(shard,))
        return Used(question, now_ms if waiting_ms is None else min(now_ms, waiting_ms), sums)

    def _keep(self, name: tuple[object, ...], done: "asyncio.Task[Used]") -> None:
        self._asking.pop(name, None)
        if done.cancelled() or done.exception() is not None:
            return
        self._kept[name] = time.monotonic(), done.result()
        self._kept.move_to_end(name)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)


class UsageRoute:
    """Answers `GET /v1/usage`."""

    def __init__(self, reader: UsageReader) -> None:
        self._reader = reader

    async def __call__(self, exchange: Exchange, account: Account | None, request_id: str) -> None:
        """A `LocalAnswer`."""
        assert account is not None, "not a public route"
        by, since_ms, until_ms = read_query(exchange.query)
        used = await self._reader.read(account, by, since_ms, until_ms)
        headers = [
            ("content-type", "application/json"),
            ("x-request-id", request_id),
            ("cache-control", "no-store"),
        ]
        body = orjson.dumps(usage_document(used))
        await exchange.answer(200, encode_fields(headers), body)


def read_query(query: str) -> tuple[UsageGroup, int | None, int | None]:
    """`group_by`, `since` and `until`; Unix ms, None where absent. Raises Refused."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise Refused("bad_request", "The query has too many parameters.") from None
    given = dict(pairs)
    unknown = sorted(given.keys() - {"group_by", "since", "until"})
    if unknown or len(given) < len(pairs):
        name = unknown[0] if unknown else next(n for n, _ in pairs if n in given)
        what = "is not a parameter here" if unknown else "is there more than once"
        raise _bad(name[:64], f"{what}; send `group_by`, `since` and `until`, each at most once.")
    by = given.get("group_by", "day")
    if by not in USAGE_GROUPS:
        raise _bad("group_by", f"must be one of {', '.join(USAGE_GROUPS)}, got {by[:64]!r}.")
    since_ms, until_ms = _moment(given, "since"), _moment(given, "until")
    now_ms = time.time_ns() // 1_000_000
    end_ms = now_ms if until_ms is None else until_ms
    if since_ms is not None and since_ms >= end_ms:
        raise _bad("since", "must be before `until`, which is now if it is absent.")
    if since_ms is not None and end_ms - since_ms > MAX_DAYS * DAY_MS:
        raise _bad("since", f"must be at most {MAX_DAYS} days before `until`.")
    return by, since_ms, until_ms


def usage_document(used: Used) -> dict[str, Any]:
    """The answer. A customer with more than `MAX_LINES` lines gets those that cost most."""
    question, sums = used.question, used.sums
    more = len(sums) > MAX_LINES
    if more:
        sums = sorted(sums, key=lambda each: -each.charged_nano)[:MAX_LINES]
    return {
        "object": "usage",
        "customer": question.customer_id,
        "group_by": question.by,
        "since": timestamp(question.since_ms),
        "until": timestamp(question.until_ms),
        "as_of": timestamp(used.as_of_ms),
        "data": [{question.by: each.label or None, **_amounts(each)} for each in sums],
        "has_more": more,
        "total": _amounts(total_of(used.sums)),
    }


def total_of(sums: list[UsageSum]) -> UsageSum:
    """All lines together."""
    usage: dict[str, int] = {}
    for each in sums:
        for unit, quantity in each.usage.items():
            usage[unit] = usage.get(unit, 0) + quantity
    return UsageSum(
        "",
        sum(each.requests for each in sums),
        sum(each.charged_nano for each in sums),
        sum(each.corrected_nano for each in sums),
        usage,
    )


def _amounts(line: UsageSum) -> dict[str, Any]:
    return {
        "requests": line.requests,
        "charge": format_amount(line.charged_nano),
        "corrected": format_amount(line.corrected_nano),
        "usage": dict(line.usage),
    }


def _moment(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    try:
        if _DATE.fullmatch(text):
            moment = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
        else:
            moment = dt.datetime.fromisoformat(text)
        if moment.tzinfo is None or not 1970 < moment.year < 9999:
            raise ValueError
    except ValueError:
        raise _bad(
            name,
            "must be a date such as 2027-01-31, or a moment with its time zone such as"
            f" 2027-01-31T12:00:00Z, got {text[:64]!r}.",
        ) from None
    return int(moment.timestamp() * 1000)


def _bad(name: str, what: str) -> Refused:
    return Refused("bad_request", f"`{name}` {what}", param=name)
