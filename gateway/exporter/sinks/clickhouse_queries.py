"""The questions to the tables in ClickHouse, as text: of the sink, and of the reader.

Events are read with FINAL: of rows at one place, the first that arrived. Every value in a statement is an
integer or has passed `literal`.
"""

# ruff: noqa: S608 - see above

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.domain.delivery import Place
from gateway.domain.event_rows import COLUMNS
from gateway.domain.events import CHANGE_KINDS
from gateway.domain.stores import ChangeFilter, RowFilter
from gateway.exporter.sinks.clickhouse_protocol import Server, literal, literals

_ROW: Final = ", ".join(COLUMNS)
_EVENT: Final = f"{_ROW}, stored_at_ms, position"

CURSORS: Final = "SELECT shard, epoch, max(seq) AS last FROM cursors WHERE {} GROUP BY shard, epoch"
SINK_CURSORS: Final = (
    "SELECT shard, epoch, max(seq) AS last FROM sink_cursors WHERE {} GROUP BY shard, epoch"
)
"""Under a condition; for `furthest`."""


def furthest(found: Iterable[Mapping[str, Any]]) -> dict[int, Place]:
    """Shard → its furthest place."""
    places: dict[int, Place] = {}
    for line in found:
        place = Place(line["epoch"], line["last"])
        places[line["shard"]] = max(place, places.get(line["shard"], place))
    return places


def databases(name: str) -> str:
    """One line if there is this database."""
    return f"SELECT name FROM system.databases WHERE name = {literal(name)}"


def migrations_of(database: str) -> str:
    """One line if the tables have been created."""
    return (
        f"SELECT name FROM system.tables WHERE database = {literal(database)}"
        " AND name = 'migrations'"
    )


# Conditions on places


def between(shard: int, first: Place, last: Place) -> str:
    """Places of a shard from the first to the last, both included."""
    return (
        f"(shard = {shard} AND epoch >= {first.epoch} AND epoch <= {last.epoch}"
        f" AND (epoch > {first.epoch} OR seq >= {first.seq})"
        f" AND (epoch < {last.epoch} OR seq <= {last.seq}))"
    )


def beyond(shard: int, place: Place, far: int | None = None) -> str:
    """Places of a shard beyond this one; far: within its epoch at most so much further"""
    epoch, seq = place
    near = "" if far is None else f" AND (epoch > {epoch} OR seq <= {seq + far})"
    return f"(shard = {shard} AND epoch >= {epoch} AND (epoch > {epoch} OR seq > {seq}){near})"


def up_to(shard: int, place: Place) -> str:
    """Places of a shard up to this one, which is included."""
    return f"(shard = {shard} AND (epoch < {place.epoch} OR epoch = {place.epoch} AND seq <= {place.seq}))"


def _in_period(
    column: str, since_ms: int | None, until_ms: int | None, customer_id: str | None
) -> list[str]:
    """Conditions that rows of a period and a customer meet; at least one, for `AND`."""
    conditions = ["1"]
    if since_ms is not None:
        conditions.append(f"{column} >= {since_ms}")
    if until_ms is not None:
        conditions.append(f"{column} < {until_ms}")
    if customer_id is not None:
        conditions.append(f"customer_id = {literal(customer_id)}")
    return conditions


# Events


def stored_at(condition: str) -> str:
    """Which events are at these places, and when they arrived."""
    return f"SELECT shard, epoch, seq, event_id, position FROM events FINAL WHERE {condition}"


def rows_beyond(condition: str, limit: int) -> str:
    """Rows at these places, in order."""
    return (
        f"SELECT {_ROW} FROM events FINAL WHERE {condition}"
        f" ORDER BY shard, epoch, seq LIMIT {limit}"
    )


def events(condition: str, order: str, limit: int | None = None) -> str:
    """Stored events with their arrival. With a limit only the wanted rows are read in all columns."""
    if limit is None:
        return f"SELECT {_EVENT} FROM events FINAL WHERE {condition} ORDER BY {order}"
    return (
        f"SELECT {_EVENT} FROM events FINAL WHERE (shard, epoch, seq) IN ("
        f"SELECT shard, epoch, seq FROM events FINAL WHERE {condition} ORDER BY {order} LIMIT {limit})"
        f" ORDER BY {order}"
    )


def rows(wanted: RowFilter) -> str:
    """The rows that pass, by time."""
    conditions = _in_period("occurred_at_ms", wanted.since_ms, wanted.until_ms, wanted.customer_id)
    if wanted.kinds is not None:
        conditions.append(f"kind IN {literals(sorted(wanted.kinds))}" if wanted.kinds else "0")
    return (
        f"SELECT {_ROW} FROM events FINAL WHERE {' AND '.join(conditions)}"
        " ORDER BY occurred_at_ms, shard, epoch, seq"
    )


def changes(wanted: ChangeFilter, server: Server) -> str:
    """The latest rows whose facts name an actor."""
    modern = "JSONExtractString" in server.features
    extract = "JSONExtractString" if modern else "visitParamExtractString"
    actor, action = f"{extract}(facts, 'actor')", f"{extract}(facts, 'action')"
    conditions = _in_period("occurred_at_ms", wanted.since_ms, wanted.until_ms, wanted.customer_id)
    conditions += [f"kind IN {literals(CHANGE_KINDS)}", f"{actor} <> ''"]
    if wanted.actor is not None:
        conditions.append(f"{actor} = {literal(wanted.actor)}")
    if wanted.action is not None:
        conditions.append(f"startsWith(concat({action}, '.'), {literal(wanted.action + '.')})")
    if wanted.before is not None:
        at_ms, shard, epoch, seq = wanted.before
        beyond_all = f"(shard, epoch, seq) < ({shard}, {epoch}, {seq})"
        conditions.append(
            f"(occurred_at_ms < {at_ms} OR occurred_at_ms = {at_ms} AND {beyond_all})"
        )
    return (
        f"SELECT {_ROW} FROM events FINAL WHERE {' AND '.join(conditions)}"
        f" ORDER BY occurred_at_ms DESC, shard DESC, epoch DESC, seq DESC LIMIT {wanted.limit}"
    )


def charges_since(customer_id: str, since_ms: int, position: int) -> str:
    """One line: the sum, and the newest of the customer's events."""
    return f"""
        SELECT sumIf(amount_nano, kind IN ('settle', 'expire', 'settle_late')) AS amount,
            max(position) AS newest, max(occurred_at_ms) AS newest_ms
        FROM events FINAL WHERE customer_id = {literal(customer_id)}
            AND occurred_at_ms >= {since_ms} AND position > {position}
    """


def amounts(condition: str, order: str = "seq") -> str:
    """The ids and amounts of events."""
    return f"SELECT seq, event_id, amount_nano FROM events FINAL WHERE {condition} ORDER BY {order}"


def newest(table: str, condition: str = "1") -> str:
    """One line: the newest position, 0 if there is none."""
    return f"SELECT max(position) AS newest FROM {table} WHERE {condition}"


# Shards


def totals(condition: str) -> str:
    """Sums of a shard by customer and kind."""
    return (
        f"SELECT customer_id, kind, sum(amount_nano) AS total FROM events FINAL WHERE {condition}"
        " GROUP BY customer_id, kind"
    )


def spans(condition: str) -> str:
    """Events of a shard by epoch."""
    return (
        "SELECT epoch, min(seq) AS first_seq, max(seq) AS last_seq, count() AS number"
        f" FROM events FINAL WHERE {condition} GROUP BY epoch"
    )


def dead_places(condition: str) -> str:
    """Places of a shard that have a dead letter of the store itself and no event."""
    places, condition = condition, f"{condition} AND sink = ''"
    dead = f"SELECT epoch, seq FROM dead_letters WHERE {condition}"
    return (
        f"SELECT DISTINCT epoch, seq FROM dead_letters WHERE {condition} AND (epoch, seq) NOT IN ("
        f"SELECT epoch, seq FROM events WHERE {places} AND (epoch, seq) IN ({dead}))"
    )


def dead_letters(condition: str, order: str, limit: int | None = None) -> str:
    """Dead letters."""
    most = "" if limit is None else f" LIMIT {limit}"
    return (
        "SELECT shard, epoch, seq, event_id, reason, payload_hex FROM dead_letters FINAL"
        f" WHERE {condition} ORDER BY {order}{most}"
    )


def anomalies(limit: int) -> str:
    """The latest."""
    return (
        "SELECT kind, shard, after_epoch, after_seq, found_epoch, found_seq FROM anomalies FINAL"
        f" ORDER BY position DESC LIMIT {limit}"
    )


def signals(limit: int, customer_id: str | None) -> str:
    """The latest."""
    condition = "1" if customer_id is None else f"customer_id = {literal(customer_id)}"
    return (
        "SELECT signal_id, name, customer_id, event_id, occurred_at_ms, balance_nano, numbers"
        f" FROM signals FINAL WHERE {condition} ORDER BY position DESC LIMIT {limit}"
    )


DEAD_LETTER_COUNTS: Final = "SELECT sink, count() AS number FROM dead_letters FINAL GROUP BY sink"

# Refusals

REFUSAL_CURSOR: Final = """
    SELECT entry, toUInt64(splitByChar('-', entry)[1]) AS ms, toUInt64(splitByChar('-', entry)[2]) AS number
    FROM refusal_pages FINAL ORDER BY ms DESC, number DESC LIMIT 1
"""
"""The furthest entry; nothing if there is none."""


def refusals_after(entry: str) -> str:
    """Which page stands at this place, by its position."""
    return f"SELECT position FROM refusal_pages FINAL WHERE after = {literal(entry)}"


def refusals(since_ms: int | None, until_ms: int | None, customer_id: str | None) -> str:
    """Sums of refusals, in order."""
    conditions = _in_period("hour_ms", since_ms, until_ms, customer_id)
    return (
        "SELECT hour_ms, customer_id, model, reason, count, estimated_nano FROM refusals"
        f" WHERE {' AND '.join(conditions)} ORDER BY hour_ms, customer_id, model, reason"
    )


def parts(values: Sequence[Any], size: int = 2000) -> Iterable[Sequence[Any]]:
    """Lists that fit into a statement."""
    return (values[start : start + size] for start in range(0, len(values), size))
