"""Load and truth: a simulated provider, a real one, a load generator, benchmarks, chaos.

- `provider`   the simulated provider; `faults` its controls, `sim_*` its answers, `served` its ground truth
- `llama`      a real llama.cpp server with a small model
- `generator`  closed and open loop load over raw connections
- `bench`      CPU per request of the gate against direct and nginx, in one run
- `chaos`      kills workers and the exporter under load
"""
