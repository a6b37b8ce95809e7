"""`creditgate loadtest`: load on a gate, judged by targets, shown in a report.

- `plan`       what to do: a YAML file and flags, checked as a whole
- `targets`    `p99<25ms`, `added p99<=2ms`, `errors<0.1%`, `rate>=200`: read and judged
- `deck`       the requests: a mix drawn from distributions; `trace` plays a JSONL file instead
- `sender`     one sending process; `tally` what it counts, `histogram` how latencies are kept
- `session`    one stretch of load: starts the senders, adds their tallies, watches processes
- `processes`  whose CPU and memory is whose
- `run`        fixed rate, steps, ramp or search, from sessions to a report
- `report`     the report as a document; `page`, `charts` its HTML; `compare` two of them
- `live`       what the terminal shows meanwhile

Invariants: latency counts from when a request was meant to be sent; the sender says when it was itself
the limit; a figure that was not measured is absent, never zero.
"""
