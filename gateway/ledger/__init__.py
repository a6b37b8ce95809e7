"""The wallet: Python's side of the scripts in `lua/`. The only importer of redis.

| module | responsibility |
|---|---|
| `shards` | runs a script on the shard of a customer; every group of verbs is built on it |
| `reservations` | reserve, extend, settle, release, expire, quote |
| `wallets`, `corrections` | what operators do to a wallet |
| `accounts` | one object over what follows, as the command line and the gate use it |
| `creation`, `keys`, `prices` | the ledger's creation, API keys, the rows of price versions |
| `wallet_reader`, `hold_reader`, `standing`, `audit` | reads off the hot path |
| `pricebook`, `book_changes` | the prices in force |
| `outbox`, `outbox_watermark` | the events that wait for the exporter |
| `journal`, `journal_file`, `journal_replay` | settlements that could not be delivered, on disk |
| `refusals`, `unanswered` | recent refusals for `why`; recent requests for retries |
| `identities`, `repair` | `verify`; reopening a shard that lost entries |
| `client/` | connections and the embedded server |
| `codec/` | packing |
"""
