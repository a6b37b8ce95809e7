"""What the servers' answers mean: which are fine, which weaken a promise, which refuse a start."""

from dataclasses import replace

from gateway.ledger.client.durability import FAILOVER, PROMISES, Kept
from gateway.ledger.client.survey.ledger import LedgerSurvey
from gateway.ledger.client.survey.node import NodeReport, Replicas, Timing
from gateway.operations.ledger_report import (
    Finding,
    LedgerReport,
    findings,
    ledger_document,
    node_rows,
)

FIT = NodeReport(
    name="a:1",
    server="Valkey 9.1.2",
    role="primary",
    shards=64,
    replicas=Replicas(1, 0, 0),
    kept=Kept("Valkey 9.1.2", "aof_always", True, ()),
    promise=PROMISES["aof_always"],
    eviction="noeviction",
    memory_bytes=50,
    maxmemory_bytes=200,
    settings={
        "min-replicas-to-write": "1",
        "cluster-require-full-coverage": "no",
        "cluster-node-timeout": "5000",
    },
    waits={"WAIT": True, "WAITAOF": True},
    timing=Timing(0.21, -1.5),
)


def survey(*nodes: NodeReport) -> LedgerSurvey:
    topology = "cluster" if any(node.in_cluster for node in nodes) else "single server"
    return LedgerSurvey(topology, "redis://a:1/0", nodes)  # type: ignore[arg-type]


def found(*nodes: NodeReport) -> dict[str, Finding]:
    """By subject; the last of those with the same one."""
    return {finding.subject: finding for finding in findings(survey(*nodes))}


def test_only_the_failover_of_a_fit_server_is_noted() -> None:
    every = found(FIT)
    assert {name for name, one in every.items() if one.grade != "fine"} == {"replicas"}
    assert every["replicas"].means == FAILOVER
    assert every["memory used"].found == "25 %"
    assert "cluster-node-timeout" not in every  # it is not part of a cluster


def test_what_refuses_a_start_is_graded_so() -> None:
    every = found(
        replace(
            FIT,
            role="replica",
            missing_rights=("HSET", "ZADD"),
            scripts="NOPERM no EVALSHA",
            eviction="allkeys-lru",
        )
    )
    refused = {name: one.found for name, one in every.items() if one.grade == "refused"}
    assert refused == {
        "role": "replica",
        "rights": "HSET, ZADD",
        "scripts": "do not run",
        "maxmemory-policy": "allkeys-lru",
    }
    assert every["scripts"].means == "NOPERM no EVALSHA"


def test_what_is_not_said_is_noted_with_what_to_declare() -> None:
    silent = replace(
        FIT,
        settings=None,
        eviction=None,
        kept=Kept("Redis 7.0.15", "none", False, ("Persistence is assumed.",)),
    )
    every = found(silent)
    assert every["CONFIG GET"].grade == "note"
    assert "redis.durability" in every["maxmemory-policy"].means
    assert every["persistence"].found == "none (not verified)"
    assert every["persistence"].means == f"{PROMISES['none']} Persistence is assumed."
    assert "min-replicas-to-write" not in every


def test_a_primary_that_admits_alone_and_a_late_replica_are_noted() -> None:
    every = found(
        replace(FIT, replicas=Replicas(2, 9000, 30), settings={"min-replicas-to-write": "0"})
    )
    assert every["min-replicas-to-write"].grade == "note"
    assert every["replicas"].found == "2"
    assert every["replicas"].means.startswith("One is 30 s behind.")


def test_settings_of_a_cluster_are_judged_in_a_cluster() -> None:
    node = replace(FIT, in_cluster=True, cluster_state="fail")
    every = found(replace(node, settings={"cluster-require-full-coverage": "yes"}))
    assert every["cluster-require-full-coverage"].grade == "note"
    assert every["cluster state"].grade == "note"
    assert found(node)["cluster-require-full-coverage"].grade == "fine"
    assert found(node)["cluster-node-timeout"].found == "5000 ms"


def test_a_node_of_a_cluster_that_is_configured_alone_is_refused() -> None:
    alone = LedgerSurvey("single server", "redis://a:1/0", (replace(FIT, in_cluster=True),))
    topology = next(one for one in findings(alone) if one.subject == "topology")
    assert topology.grade == "refused"
    assert "redis+cluster://" in topology.means


def test_servers_that_agree_share_a_finding_and_others_are_named() -> None:
    other = replace(FIT, name="b:2", eviction="allkeys-lru")
    policies = [
        (one.found, one.grade)
        for one in findings(survey(FIT, other))
        if one.subject == "maxmemory-policy"
    ]
    assert policies == [("noeviction (a:1)", "fine"), ("allkeys-lru (b:2)", "refused")]
    assert [one.found for one in findings(survey(FIT, other)) if one.subject == "role"] == [
        "primary"
    ]


def test_a_server_that_is_away_is_a_finding_and_no_row() -> None:
    away = NodeReport("b:2", away="it does not answer", shards=20)
    assert found(FIT, away)["reachable"].found == "not b:2"
    assert [row["server"] for row in node_rows(survey(FIT, away))] == ["a:1"]


def test_clocks_that_are_apart_are_noted() -> None:
    late = replace(FIT, name="b:2", timing=Timing(0.3, 1499.0))
    assert found(FIT, late)["clock skew"].found == "1500.5 ms"
    assert found(FIT, late)["clock skew"].grade == "note"
    assert found(FIT, replace(late, timing=Timing(0.3, 0.0)))["clock skew"].grade == "fine"
    assert "clock skew" not in found(FIT)


def test_scripts_that_do_not_run_hinder_a_gate_that_would_start() -> None:
    deaf = LedgerReport(survey(replace(FIT, scripts="ERR no struct here")), None)
    assert deaf.hindrance == "scripts: do not run; ERR no struct here"
    assert (deaf.well, ledger_document(deaf)["ok"]) == (False, False)
    assert replace(deaf, refusal="it is a replica").hindrance is None  # that is said already
    assert LedgerReport(survey(FIT), None).well


def test_the_document_has_everything_that_the_tables_show() -> None:
    document = ledger_document(LedgerReport(survey(FIT), "its user may not"))
    assert document["ok"] is False
    assert document["refusal"] == "its user may not"
    (node,) = document["nodes"]
    assert node["kept"] == {"persistence": "aof_always", "verified": True, "warnings": []}
    assert node["timing"] == {"round_trip_ms": 0.21, "clock_ahead_ms": -1.5}
    assert node["replicas"] == {"count": 1, "lag_bytes": 0, "lag_s": 0}
    assert {one["subject"] for one in document["findings"]} == found(FIT).keys()
