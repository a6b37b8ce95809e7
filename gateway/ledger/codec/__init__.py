"""Packing and reading of the ledger's bytes; nothing here talks to a server.

`layout` describes every record once; the Lua offsets and the tables of `lua/README.md` are generated
from it. `calls` and `operations` pack script calls, `packed_account` and `usage_facts` the parts that
stay the same between them; `records`, `done` and `effects` read and write what the scripts store.
"""
