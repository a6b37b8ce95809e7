"""creditgate: decides, before each request runs, whether this customer can pay for it.

The rooms, from the bottom up (docs/explanation/architecture.md has pictures):

- `domain`      pure values: money, usage, prices, limits, reservations, events
- `telemetry`   metrics and logs
- `dialects`    bytes of a provider's API in, facts out
- `http`        HTTP server and client; knows nothing about money
- `ledger`      client of the scripts, packing, outbox; the only importer of redis
- `flow`        one request: start reading at `flow/handler.py`
- `exporter`    outbox → batches → sinks
- `operations`  what operators do: why, verify, refund, plan; no terminal, no HTTP
- `settings`    YAML → frozen values
- `app`         composition and processes: build, start, reload, drain
- `cli`         the commands
"""

__version__ = "0.1.0"
"""The only place of the version; packaging and `creditgate --version` read it here."""
