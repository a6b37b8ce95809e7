"""Packing and reading of the ledger's bytes; nothing here talks to a server.

`layout` describes every record once; the Lua offsets and the tables of `lua/README.md` are generated
from it. `calls` and `operations` pack script calls, `packed_account` and `usage_facts` the parts that
stay the same between them. `wallet_records`, `reservation_records`, `shard_records`, `done`, `effects`
and `outbox_entries` read and write what the scripts store. `stored_keys`, `price_rows`, `price_book`,
`refusals` and `notes` are what Python alone keeps in the server, `journal_records` what it keeps on disk.
"""
