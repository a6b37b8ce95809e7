"""Ground truth: what the simulated provider was asked and what it really sent.

Invariants: a token counts as served when its bytes were handed to the socket (hidden reasoning: when
it was produced), and a POST counts as seen when all of it has arrived, answered or not. Nothing is
subtracted when the connection breaks later.
"""

from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Row:
    """One POST. Tokens are over all choices.

    request_id:   the request's `x-request-id` (a gate's own id of it), "" when it has none
    client_id:    its `x-client-request-id` (the caller's), "" when it has none
    number:       place in the order of arrival, from 1; part of the response's id
    status:       the status answered, 0 while none was
    output:       output tokens written so far, reasoning included
    planned:      output tokens of the complete response
    state:        open | complete | broken (cut by a fault, or the other side went away)
    headers, body: as they came, when the provider records them
    """

    request_id: str
    client_id: str
    number: int
    kind: str
    tag: str = ""
    model: str = ""
    stream: bool = False
    status: int = 0
    input: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    output: int = 0
    planned: int = 0
    state: str = "open"
    headers: list[tuple[str, str]] | None = None
    body: str | None = None


class Served:
    """Totals since the last reset, and the last rows.

    Totals are exact; of the rows, the newest `rows_limit` are kept.
    """

    def __init__(self, rows_limit: int) -> None:
        self.rows: deque[Row] = deque(maxlen=rows_limit)
        self.posts = 0
        self.connections = 0
        self.connections_open = 0
        self._dropped: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        """Note a POST that has arrived completely."""
        rows = self.rows
        if len(rows) == rows.maxlen:
            self._dropped.update(_figures(rows[0]))
        self.posts += 1
        rows.append(row)

    def totals(self) -> dict[str, int]:
        """The sums over all POSTs since the last reset."""
        sums = Counter(self._dropped)
        for row in self.rows:
            sums.update(_figures(row))
        ids = Counter(row.request_id or row.client_id for row in self.rows)
        del ids[""]
        return {
            "posts": self.posts,
            "complete": sums["complete"],
            "broken": sums["broken"],
            "open": sums["open"],
            "errors": sums["errors"],
            "input_tokens": sums["input_tokens"],
            "output_tokens": sums["output_tokens"],
            "repeated_ids": sum(1 for count in ids.values() if count > 1),
            "connections": self.connections,
            "connections_open": self.connections_open,
        }

    def report(self, *, rows: bool) -> dict[str, Any]:
        """Totals, and the rows when they are wanted, as JSON values."""
        if not rows:
            return {"totals": self.totals()}
        return {"totals": self.totals(), "rows": [asdict(row) for row in self.rows]}

    def reset(self) -> None:
        """Forget all that was served; open connections stay counted."""
        self.rows.clear()
        self._dropped.clear()
        self.posts = 0
        self.connections = self.connections_open


def _figures(row: Row) -> dict[str, int]:
    return {
        row.state: 1,
        "errors": int(row.status >= 400),
        "input_tokens": row.input,
        "output_tokens": row.output,
    }
