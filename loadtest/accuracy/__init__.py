"""Measures how exactly budgets hold under many concurrent streams, for the gate and its peers.

    make accuracy        (`python -m loadtest.accuracy --help` says what can be changed)

- `scenario`    the tenants, their budgets, and how long each answer is
- `contenders`  three replicas of a gate on one Redis: ours in each preset, hardcap in each mode
- `streams`     the callers: so many streams a tenant, until the budget is exhausted
- `run`         one contender's run: start, load, ground truth, CPU
- `report`      targets, table, JSON; `chart` the picture

Invariants: every contender gets the same answers in the same order, the same Valkey without
persistence, the same provider. What was served is what the provider wrote to its sockets.
"""
