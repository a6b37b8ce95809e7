"""A gate under load while the servers of its ledger fail and are replaced.

`sentinel` and `cluster` are scenarios: a topology and what happens to it. The rest is shared:

- `load`      requests of several customers at a steady rate, and when each customer was admitted
- `scenario`  plays the steps under load, and waits after each until everybody is served again
- `checks`    what was served against what was charged; losses by id
- `report`    the table at the end

Invariants: the gate is never restarted. A failover may lose what the old primary had not passed on,
since replication is asynchronous; every request that is not charged in full for that reason is
named, and must have ended around a failure. Anything else fails the run.
"""
