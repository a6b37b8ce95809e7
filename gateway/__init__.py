"""creditgate: decides, before each request runs, whether this customer can pay for it.

Where things are:

- `domain`      pure values and rules: money, usage, prices, limits, reservations, events
- `dialects`    bytes of a provider's API in, facts out
- `http`        HTTP server and client; know no money
- `ledger`      wallets and reservations: scripts, their client, the outbox; the only importer of redis
- `flow`        the path of one request (`flow/handler.py`) and what it uses
- `exporter`    outbox → batches → sinks
- `operations`  what operators do (why, verify, refund, grant …): typed, no terminal, no HTTP
- `settings`    YAML → frozen values
- `app`         composition: build, start, reload, drain, stop
- `cli`         the commands
- `telemetry`   metrics and logs
"""

__version__ = "0.1.0"
"""The only place of the version; packaging and `creditgate --version` read it here."""
