"""The wallet: Python's side of the scripts in `lua/`. The only importer of redis.

| module | responsibility |
|---|---|
| `shards` | runs a script on the shard of a customer; every group of verbs is built on it |
| `reservations` | reserve, extend, settle, release, expire, quote |
| `wallets`, `corrections` | what operators do to a wallet |
| `accounts`, `audit`, `standing` | reads off the hot path: wallets, keys, complete shards, limits |
| `pricebook` | the prices in force |
| `outbox`, `outbox_watermark` | the events that wait for the exporter |
| `journal` | settlements that could not be delivered, on disk |
| `refusals`, `unanswered` | recent refusals for `why`; recent requests for retries |
| `identities`, `repair` | `verify`; reopening a shard that lost entries |
| `client/` | connections and the embedded server |
| `codec/` | packing |
"""
