"""HTTP/1.1 without money: imports no ledger, dialect or domain.

| module | responsibility |
|---|---|
| `interface`, `upstream_interface` | what the flow knows of HTTP: `Exchange`, `Upstream`, `UpstreamResponse` |
| `server/` | connections of clients; implements `Exchange` |
| `client/` | connections to upstreams; implements `Upstream` |
| `breaker` | whether an upstream may be sent requests |
| `budget` | one bound on all bytes that a worker buffers |
| `cors` | requests from web pages |
"""
