"""The ledger on a primary that Sentinels watch and replace.

`finder` asks the Sentinels who the primary is, before each connect; `switches` subscribes to them,
so that the connections to a demoted primary are dropped at once; `endpoint` makes both from a URL.
"""
