"""What grows, and what it costs (docs/explanation/growth.md).

- `places`: ledgers of a size, filled in bulk with records that the scripts made
- `ledger`: CPU of the ledger's server for a pair, at several sizes (`make growth`)
- `gate`: memory of a worker by idle streams and by customers, workers, the sweep of all wallets
- `directory`: start, memory and cold requests by customers that live in the ledger
- `chart`: a chart for each
- `soak`: everything at once for an hour (`make soak`)
- `skew`: hot wallets and the busiest of N servers, simulated (`make skew`)
"""
