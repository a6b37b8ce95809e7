"""The ledger on one server and on clusters of one, two and three primaries, in one run: `make scale`.

Invariant: figures are compared inside one run only. Every ledger runs the same server with the same
settings on TCP, and they take turns in each round. Ratios are medians of the ratios within a round.
"""
