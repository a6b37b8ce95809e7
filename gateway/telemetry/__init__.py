"""Metrics and logs.

- `metrics`     counters, gauges and histograms that cost an addition; snapshots; their sum
- `names`       what the gate counts, by name
- `exposition`  a snapshot as Prometheus text
- `logs`        structured logs, and one line per request
"""
