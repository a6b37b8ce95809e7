"""The load generator: closed and open loop over raw connections.

    python -m loadtest.generator http://127.0.0.1:8080 --key sk-demo --model sim-small \
        --connections 32 --seconds 5 [--rate 500] [--stream]

- `load`        what is sent when, over which connections
- `connection`  one connection, one request at a time
- `result`      what a load gave
- `console`     progress and table

Invariants: every request sent ends in exactly one outcome, and every request that was due is sent or
counted as unsent. In open loop a request's latency runs from the moment it was due, so that
a stalled server cannot hide behind a waiting client.
"""

from loadtest.generator.console import summary, watched
from loadtest.generator.load import Load
from loadtest.generator.result import Answer, Ending, Outcome, Result, percentile

__all__ = ["Answer", "Ending", "Load", "Outcome", "Result", "percentile", "summary", "watched"]
