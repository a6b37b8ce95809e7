"""Composition and operation: processes, their supervision, reload, drain.

- `roles`       what a child process must offer (`Service`), and what it is given
- `service`     the gate's own services: the worker's flow, the exporter
- `worker`      a child process, from its first instruction to its exit
- `control`     the channel between the supervisor and a child
- `children`    one child as the supervisor sees it; one slot that is kept filled
- `supervisor`  start, watch, reload, drain, stop
- `parent`      dying with one's parent
- `watch`       noticing that configuration files have changed
- `run`         the supervisor with the real parts: ledger, accounts, store
"""
