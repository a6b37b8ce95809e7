"""Write the Grafana dashboard: `python -m tests.deploy.write_dashboard`.

A test fails while the file differs from what is said here, or names a metric that does not exist.
"""

from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FILE: Final = Path(__file__).parents[2] / "config/deploy/grafana/creditgate.json"

_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${source}")
_OF: Final = 'job=~"$job"'

Query = tuple[str, str]
"""An expression, in which `{}` stands for the selected jobs, and the legend."""

STATS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("Ledger", "min(creditgate_ledger_up{{{}}})", "short", "1 while the ledger answers."),
    ("Workers", 'sum(creditgate_processes_ready{{{},role="worker"}})', "short", "Ready workers."),
    (
        "Requests",
        "sum(rate(creditgate_decisions_total{{{}}}[$__rate_interval]))",
        "reqps",
        "Requests decided per second.",
    ),
    (
        "Refused",
        'sum(rate(creditgate_decisions_total{{{0},outcome="deny"}}[$__rate_interval]))'
        " / sum(rate(creditgate_decisions_total{{{0}}}[$__rate_interval]))",
        "percentunit",
        "Share of requests that were refused.",
    ),
    (
        "Charged in the last hour",
        "sum(creditgate_customer_charged_credits{{{}}})",
        "short",
        "Credits, all customers.",
    ),
    (
        "Outbox lag",
        "max(creditgate_outbox_lag_seconds{{{}}})",
        "s",
        "Age of the oldest event that is not in the store.",
    ),
)


def _p(share: str, histogram: str, by: str = "") -> str:
    return (
        f"histogram_quantile({share}, sum by (le{by}) "
        f"(rate({histogram}_bucket{{{{{{}}}}}}[$__rate_interval])))"
    )


PANELS: Final[dict[str, tuple[tuple[str, str, str, tuple[Query, ...]], ...]]] = {
    "Traffic": (
        (
            "Decisions",
            "reqps",
            "Requests by decision.",
            (
                (
                    "sum by (outcome) (rate(creditgate_decisions_total{{{}}}[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
        ),
        (
            "Refusals by reason",
            "reqps",
            "insufficient_credits is a customer without credit; bad_key may be a leaked or revoked key.",
            (
                (
                    'sum by (reason) (rate(creditgate_decisions_total{{{},outcome="deny"}}'
                    "[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
        ),
        (
            "Requests and holds",
            "short",
            "Holds above the requests being served are waiting for the ledger, or are stuck.",
            (
                ("sum(creditgate_requests_in_flight{{{}}})", "requests in flight"),
                ("sum(creditgate_holds_open{{{}}})", "holds open"),
            ),
        ),
        (
            "Ends of reservations",
            "reqps",
            "How reservations ended.",
            (
                (
                    "sum by (outcome) (rate(creditgate_reservations_ended_total{{{}}}"
                    "[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
        ),
    ),
    "Latency": (
        (
            "Added before forwarding",
            "s",
            "What the gate adds: reading, estimate, reserve.",
            (
                (_p("0.5", "creditgate_added_latency_seconds"), "p50"),
                (_p("0.99", "creditgate_added_latency_seconds"), "p99"),
            ),
        ),
        (
            "Upstream: first byte, p95",
            "s",
            "From sending the request until the response's first byte.",
            ((_p("0.95", "creditgate_upstream_latency_seconds", ", upstream"), "{{upstream}}"),),
        ),
        (
            "Upstream failures",
            "reqps",
            "Attempts without a complete response, by what failed.",
            (
                (
                    "sum by (upstream, kind) (rate(creditgate_upstream_failures_total{{{}}}"
                    "[$__rate_interval]))",
                    "{{upstream}} {{kind}}",
                ),
            ),
        ),
        (
            "Settlement, p99",
            "s",
            "From the last byte of a response until the ledger took its settlement.",
            ((_p("0.99", "creditgate_settle_lag_seconds"), "p99"),),
        ),
    ),
    "Money": (
        (
            "Charged in the last hour, by customer",
            "short",
            "Credits of the customers who spent most.",
            (
                (
                    "topk(10, sum by (customer) (creditgate_customer_charged_credits{{{}}}))",
                    "{{customer}}",
                ),
            ),
        ),
        (
            "Margin of the last hour, by model",
            "short",
            "Charges less cost, where the cost is known. Below 0 a price is wrong.",
            (("sum by (model) (creditgate_model_margin_credits{{{}}})", "{{model}}"),),
        ),
        (
            "Balance of the customers who spent most",
            "short",
            "Credits after the last event.",
            (("min by (customer) (creditgate_customer_balance_credits{{{}}})", "{{customer}}"),),
        ),
        (
            "Held, divided by charged",
            "short",
            "How much more is held than used.",
            (
                (_p("0.5", "creditgate_estimate_over_actual_ratio"), "p50"),
                (_p("0.95", "creditgate_estimate_over_actual_ratio"), "p95"),
            ),
        ),
    ),
    "Delivery": (
        (
            "Lag",
            "short",
            "Events that are not in the store, and that a sink has not got.",
            (
                ("max(creditgate_outbox_lag_events{{{}}})", "store"),
                ("max by (sink) (creditgate_sink_lag_events{{{}}})", "{{sink}}"),
            ),
        ),
        (
            "Unreachable",
            "short",
            "1 while the store, the ledger or a sink cannot be reached.",
            (
                ("max(creditgate_exporter_waiting{{{}}})", "store or ledger"),
                ("max by (sink) (creditgate_sink_waiting{{{}}})", "{{sink}}"),
            ),
        ),
        (
            "Must stay 0",
            "short",
            "Events and settlements that somebody must look at.",
            (
                (
                    "sum(increase(creditgate_exporter_dead_letters_total{{{}}}[$__rate_interval]))",
                    "dead letters",
                ),
                (
                    "sum by (sink) (increase(creditgate_sink_dead_letters_total{{{}}}"
                    "[$__rate_interval]))",
                    "dead letters of {{sink}}",
                ),
                (
                    "sum(increase(creditgate_exporter_anomalies_total{{{}}}[$__rate_interval]))",
                    "anomalies",
                ),
                (
                    "sum by (outcome) (increase(creditgate_shard_repairs_total{{{}}}"
                    "[$__rate_interval]))",
                    "repairs of shards: {{outcome}}",
                ),
                ("sum(creditgate_wallets_shut{{{}}})", "wallets shut by repairs"),
                (
                    "sum(increase(creditgate_endings_set_aside_total{{{}}}[$__rate_interval]))",
                    "settlements set aside",
                ),
            ),
        ),
        (
            "Shards that admit nothing",
            "short",
            "Their customers are refused because of the ledger.",
            (("max(creditgate_shards_shut{{{}}})", "shards"),),
        ),
        (
            "Settlements in the journal",
            "short",
            "They wait on the gate's disk for the ledger.",
            (("sum(creditgate_settle_journal_entries{{{}}})", "waiting"),),
        ),
    ),
    "Processes": (
        (
            "Replaced processes",
            "short",
            "Processes that died and were replaced.",
            (
                (
                    "sum by (role) (increase(creditgate_process_restarts_total{{{}}}"
                    "[$__rate_interval]))",
                    "{{role}}",
                ),
            ),
        ),
        (
            "Reloads",
            "short",
            "Configuration reloads; refused ones leave the previous configuration in force.",
            (
                (
                    "sum by (result) (increase(creditgate_config_reloads_total{{{}}}"
                    "[$__rate_interval]))",
                    "{{result}}",
                ),
            ),
        ),
    ),
}


def dashboard() -> str:
    """The dashboard as JSON."""
    board = (
        Dashboard("creditgate")
        .uid("creditgate")
        .description("A gate: traffic, latency, money, delivery of events, processes.")
        .tags(["creditgate"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .with_variable(DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(
            QueryVariable("job")
            .label("Job")
            .datasource(_SOURCE)
            .query("label_values(creditgate_ledger_up, job)")
            .multi(True)
            .include_all(True)
        )
    )
    for title, expression, unit, description in STATS:
        panel = stat.Panel().title(title).description(description).unit(unit).datasource(_SOURCE)
        board = board.with_panel(panel.height(4).span(4).with_target(_query((expression, ""))))
    for row, panels in PANELS.items():
        board = board.with_row(Row(row))
        for title, unit, description, queries in panels:
            board = board.with_panel(_chart(title, unit, description, queries))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _chart(title: str, unit: str, description: str, queries: tuple[Query, ...]) -> Any:
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
    )
    chart = timeseries.Panel().title(title).description(description).unit(unit).min(0)
    if "Margin" in title or "Balance" in title:
        chart = timeseries.Panel().title(title).description(description).unit(unit)
    chart = chart.datasource(_SOURCE).height(8).span(12).fill_opacity(8).legend(legend)
    for query in queries:
        chart = chart.with_target(_query(query))
    return chart


def _query(query: Query) -> Any:
    expression, legend = query
    return prometheus.Dataquery().expr(expression.format(_OF)).legend_format(legend)


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(dashboard())
