"""Load and truth: a simulated provider, a real one, a load generator, benchmarks, chaos.

- `provider`   the simulated provider; `faults` its controls, `sim_*` its answers, `served` its ground truth
- `llama`      a real llama.cpp server with a small model
- `generator`  closed and open loop load over raw connections
- `bench`      the gate and its peers in one run; `peers` starts them
- `chaos`      kills workers and the exporter under load
"""
