"""Composition and operation: processes, their supervision, reload, drain.

What runs in a child process:
- `roles`         what a child must offer (`Service`), and what it is given
- `worker`        a child, from its first instruction to its exit
- `service`       the gate's service: the flow with all it stands on (`balance`: wallets read)
- `exporting`     the exporter's service

What the supervisor is made of:
- `parts`         what it operates, given as values and functions
- `supervisor`    start, watch, drain, stop
- `children`      one child; one slot that is kept filled
- `reload`        a new configuration: by all, or by none
- `control`       the channel to a child
- `sockets`, `lock`, `watch`, `parent`   ports, data folder, files, dying with one's parent
- `ledger_server` the ledger's server: embedded or somebody else's; `sync` accounts into it
- `run`           all of it together
"""
