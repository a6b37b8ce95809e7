"""Composition and operation: processes, their supervision, reload, drain.

What runs in a child process:
- `roles`         what a child must offer (`Service`), and what it is given
- `worker`        a child, from its first instruction to its exit
- `gate`          the gate's service, and `build_gate`, which makes it complete; it is composed of
                  `ledger_access` (connections), `ledger_health`, `compiled` (a configuration, and
                  which one is in force), `pools`, `local_routes`, `pricing`, `records`, `background`
                  (work besides requests), `drain`
- `exporting`     the exporter's service

What commands and the admin side use:
- `backend`       from settings to what `operations` work on; `quoting` from a body to a quote

What the supervisor is made of:
- `parts`         what it operates, given as values and functions
- `supervisor`    start, watch, drain, stop
- `children`      one child; one slot that is kept filled
- `reload`        a new configuration: by all, or by none
- `control`       the channel to a child
- `sockets`, `lock`, `watch`, `parent`   ports, data folder, files, a child ends with its parent
- `ledger_server` the ledger's server: embedded or external; `sync` writes accounts into it
- `watching`      the ledger's server and operator notices, watched
- `health_server` health and metrics on the admin port
- `run`           all of it together; or the console alone

On its own: `alive`, the health check of the container image.
"""
