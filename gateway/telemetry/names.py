"""The gate's metrics, in one place, so that the documentation can list them.

Durations are in seconds, amounts in credits. Metrics of workers and of the supervisor carry no customer,
key or model name: they describe the gate and not whom it serves. Those of the exporter name the customers
and models that sold most, and no more than that.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.telemetry.metrics import Registry, Snapshot

_LATENCY_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
)  # fmt: skip
_UPSTREAM_S: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600,
)  # fmt: skip
_RATIO: Final = (0.5, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000)


class GateMetrics:
    """Metrics of a worker. Bind children (`.labels(…)`) at start, count on the children."""

    def __init__(self) -> None:
        registry = self.registry = Registry()
        self.decisions = registry.counter(
            "creditgate_decisions_total",
            "Requests decided, by outcome (allow, deny, replay, bypass; would_deny: ran in shadow mode "
            "alone) and the reason of a denial.",
            ("outcome", "reason"),
        )
        self.ended = registry.counter(
            "creditgate_reservations_ended_total",
            "Reservations ended by this gate, by outcome (settled, released, settled_late).",
            ("outcome",),
        )
        self.requests_in_flight = registry.gauge(
            "creditgate_requests_in_flight", "Requests being served."
        ).labels()
        self.holds_open = registry.gauge(
            "creditgate_holds_open", "Reservations that are neither settled nor released."
        ).labels()
        self.held_credits = registry.gauge(
            "creditgate_held_credits", "Credits that these reservations hold."
        ).labels()
        self.estimate_over_actual = registry.histogram(
            "creditgate_estimate_over_actual_ratio",
            "Amount held at the end, divided by the charge.",
            _RATIO,
        ).labels()
        self.settle_lag_seconds = registry.histogram(
            "creditgate_settle_lag_seconds",
            "From the last byte of a response until the ledger acknowledged its settlement.",
            _LATENCY_S,
        ).labels()
        self.settle_journal_entries = registry.gauge(
            "creditgate_settle_journal_entries",
            "Settlements waiting in the local journal for the ledger.",
        ).labels()
        self.endings_set_aside = registry.counter(
            "creditgate_endings_set_aside_total",
            "Settlements and releases that the ledger rejected permanently; kept in "
            "`journal/*.rejected`.",
        ).labels()
        self.settlements_unstored = registry.gauge(
            "creditgate_settlements_unstored",
            "Settlements that the ledger has answered and the store may not have yet, kept in memory.",
        ).labels()
        self.settlements_recovered = registry.counter(
            "creditgate_settlements_recovered_total",
            "Settlements that the ledger had answered and lost, and has taken again from memory.",
        ).labels()
        self.settlements_forgotten = registry.counter(
            "creditgate_settlements_forgotten_total",
            "Settlements no longer kept in memory because too many were, though a failover could still "
            "lose them.",
        ).labels()
        self.shard_shut_seconds = registry.counter(
            "creditgate_shard_shut_seconds_total",
            "Time in which a worker could admit nothing at a shard of the ledger, from the first request "
            "that was refused. Over several workers take the `max by (shard)`.",
            ("shard", "worker"),
        )
        self.shards_shut = registry.gauge(
            "creditgate_shards_shut",
            "Shards of the ledger that admit nothing now; the most of all workers.",
            merge="max",
        ).labels()
        self.upstream_latency_seconds = registry.histogram(
            "creditgate_upstream_latency_seconds",
            "From sending a request upstream until the first byte of the response.",
            _UPSTREAM_S,
            ("upstream",),
        )
        self.upstream_failures = registry.counter(
            "creditgate_upstream_failures_total",
            "Upstream attempts without a complete response, by what failed (dns, refused, "
            "unreachable, tls, timeout, reset, closed, malformed, busy, stopped; auth: it "
            "rejected the gate's credential).",
            ("upstream", "kind"),
        )
        self.upstream_failovers = registry.counter(
            "creditgate_upstream_failovers_total",
            "Requests that went on to another upstream of their model, by the upstream that could not "
            "take them and why (as above, or the status that it answered).",
            ("upstream", "kind"),
        )
        self.upstream_breaker_state = registry.gauge(
            "creditgate_upstream_breaker_state",
            "State of the circuit breaker: 0 closed, 1 half-open, 2 open; the worst of all workers.",
            ("upstream",),
            merge="max",
        )
        self.upstream_breaker_opened = registry.counter(
            "creditgate_upstream_breaker_opened_total",
            "How often a worker's circuit breaker for the upstream has opened.",
            ("upstream",),
        )
        self.added_latency_seconds = registry.histogram(
            "creditgate_added_latency_seconds",
            "Time that the gate adds before forwarding: reading, estimate, reserve.",
            _LATENCY_S,
        ).labels()
        self.log_lines_dropped = registry.counter(
            "creditgate_log_lines_dropped_total",
            "Request log lines dropped because the log's reader was too slow.",
        ).labels()
        self.trace_spans_dropped = registry.counter(
            "creditgate_trace_spans_dropped_total",
            "Spans dropped because the queue was full or the collector did not take them.",
        ).labels()


_EXPORTER_GAUGES: Final = {
    "lag_events": ("creditgate_outbox_lag_events", "Events written and not yet in the store."),
    "lag_seconds": ("creditgate_outbox_lag_seconds", "Age of the oldest undelivered event."),
    "waiting": ("creditgate_exporter_waiting", "1 while the store or the ledger is unreachable."),
    "standing_by": (
        "creditgate_exporter_standing_by",
        "1 while the ledger's events go to another required store.",
    ),
    "shards_held": (
        "creditgate_exporter_shards_held",
        "Shards that this exporter holds by lease.",
    ),
    "signals_waiting": ("creditgate_signals_waiting", "Signals not delivered yet."),
    "signals_lag_seconds": (
        "creditgate_signals_lag_seconds",
        "Age of the oldest undelivered signal.",
    ),
    "repair_seconds": (
        "creditgate_shard_repair_seconds",
        "Duration of the last repair of a shard that had lost entries.",
    ),
}
_EXPORTER_COUNTERS: Final = {
    "batches": "Batches delivered to the store.",
    "delivered": "Events delivered to the store.",
    "duplicates": "Events that the store already had.",
    "dead_letters": "Events that cannot be delivered, kept with their reason.",
    "anomalies": "Gaps and repeats found in the sequence of events.",
    "retries": "Deliveries retried.",
    "refusals": "Refusals counted into the store.",
    "charged_credits": "Charges in the delivered events, in credits; without test and shadow wallets.",
    "signals_delivered": "Signals accepted by their receiver.",
    "signals_failed": "Failed attempts to deliver a signal.",
    "signals_dead": "Signals given up, kept with their reason.",
}


_SINK_GAUGES: Final = {
    "lag_events": ("creditgate_sink_lag_events", "Events in the store and not yet in the sink."),
    "waiting": ("creditgate_sink_waiting", "1 while the sink is unreachable."),
}
_SINK_COUNTERS: Final = {
    "delivered": "Events delivered to the sink.",
    "duplicates": "Events that the sink already had.",
    "dead_letters": "Events that the sink could not take, kept with their reason.",
    "retries": "Deliveries to the sink retried.",
}


_SOLD: Final = {
    "requests": "Requests charged in the last hour",
    "charged_credits": "Charged in the last hour",
    "cost_credits": "What the provider bills for the last hour's requests, where it is known",
    "margin_credits": "Charges less cost of the last hour, of requests with a known cost",
}

Ranking = Sequence[tuple[str, Mapping[str, float]]]
"""Names with their figures, by the keys of `_SOLD`, and `balance_credits` of customers."""


def exporter_snapshot(
    figures: Mapping[str, float],
    sinks: Mapping[str, Mapping[str, float]] | None = None,
    sold: Mapping[str, Ranking] | None = None,
    repairs: Mapping[str, float] | None = None,
) -> Snapshot:
    """Convert the exporter's figures, by its names, to metrics; missing ones are 0.

    sinks: those of the optional sinks, by the sink's name
    sold:  what the last hour sold, by `customer` and by `model`
    repairs: of shards, by outcome
    """
    registry = Registry()
    shards = registry.counter(
        "creditgate_shard_repairs_total",
        "Repairs of shards that had lost entries, by outcome (repaired; failed: it is tried again).",
        ("outcome",),
    )
    for outcome in ("repaired", "failed"):
        shards.labels(outcome).inc((repairs or {}).get(outcome, 0))
    registry.gauge(
        "creditgate_wallets_shut",
        "Wallets frozen by repairs that could not restore them, and not thawed since; "
        "`creditgate ledger status` lists them.",
    ).labels().set(figures.get("wallets_shut", 0))
    for figure, (name, text) in _SINK_GAUGES.items():
        gauge = registry.gauge(name, text, ("sink",), merge="max")
        for sink, its in (sinks or {}).items():
            gauge.labels(sink).set(its.get(figure, 0))
    for figure, text in _SINK_COUNTERS.items():
        counter = registry.counter(f"creditgate_sink_{figure}_total", text, ("sink",))
        for sink, its in (sinks or {}).items():
            counter.labels(sink).inc(its.get(figure, 0))
    for figure, (name, text) in _EXPORTER_GAUGES.items():
        registry.gauge(name, text, merge="max").labels().set(figures.get(figure, 0))
    for figure, text in _EXPORTER_COUNTERS.items():
        registry.counter(f"creditgate_exporter_{figure}_total", text).labels().inc(
            figures.get(figure, 0)
        )
    for label in ("customer", "model"):
        for figure, text in _SOLD.items():
            said = f"{text}, by {label}: those who spent most, and `(other)`."
            if label == "model":
                said = said.replace("who spent", "that sold")
            family = registry.gauge(f"creditgate_{label}_{figure}", said, (label,))
            for name, its in (sold or {}).get(label, ()):
                family.labels(name).set(its[figure])
    balances = registry.gauge(
        "creditgate_customer_balance_credits",
        "Balance after the last event, of the customers who spent most in the last hour.",
        ("customer",),
        merge="max",
    )
    for name, its in (sold or {}).get("customer", ()):
        if "balance_credits" in its:
            balances.labels(name).set(its["balance_credits"])
    return registry.snapshot()


class SupervisorMetrics:
    """Metrics of the supervisor itself."""

    def __init__(self) -> None:
        registry = self.registry = Registry()
        self.restarts = registry.counter(
            "creditgate_process_restarts_total", "Processes replaced after they died.", ("role",)
        )
        self.processes_ready = registry.gauge(
            "creditgate_processes_ready", "Processes that are ready.", ("role",)
        )
        self.reloads = registry.counter(
            "creditgate_config_reloads_total",
            "Configuration reloads, by result (committed, refused).",
            ("result",),
        )
        self.ledger_up = registry.gauge(
            "creditgate_ledger_up", "1 while the ledger answers the supervisor."
        ).labels()
