"""The ledger on a Redis or Valkey Cluster.

`map` knows which node has which slot, `runner` runs scripts on the hot path over two connections to
each node, `client` is everything else, and `endpoint` makes them from a URL.

All keys of a shard share a hash tag, so a shard lives on one node. A node that is away makes its
shards unavailable, and no others.
"""
