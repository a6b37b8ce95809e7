"""creditgate: decides, before each request runs, whether this customer can pay for it.

Where things are:

- `domain`    pure values: money, usage, prices, limits, reservations, events
- `dialects`  bytes of a provider's API in, facts out
- `ledger`    the wallet: scripts, their client, the outbox; the only importer of redis
- `proxy`     the flow of one request (`proxy/handler.py`) and what it stands on
- `exporter`  outbox → batches → sinks
- `admin`     the operator's side: health, metrics, queries (why, verify)
- `settings`  YAML → frozen values
- `app`       composition: build, start, drain, stop
- `cli`       the commands
"""

__version__ = "0.1.0"
