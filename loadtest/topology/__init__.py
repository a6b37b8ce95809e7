"""Real Valkey processes in the topologies that operators run; nothing here knows the gate.

- `node`       one server process: start, kill, freeze, restart, ask; `options` its settings
- `cluster`    a Valkey Cluster: elections, failovers, restarts, added primaries
- `sentinels`  a primary, its replicas and the Sentinels that replace it
- `moves`      slots that move between primaries, the classic way and the atomic one
- `view`       what a node says of the cluster; `agreement` whether all say the same
- `places`     where nodes listen; `ports` TCP ports that stay ours while a node is down
- `hosts`      hosts with addresses of their own, and partitions between them
"""
