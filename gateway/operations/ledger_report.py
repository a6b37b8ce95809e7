"""What a ledger's servers allow and keep: as findings for people, and as a JSON document."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from gateway.ledger.client.durability import FAILOVER, PROMISES
from gateway.ledger.client.survey.ledger import LedgerSurvey
from gateway.ledger.client.survey.node import NodeReport

Grade = Literal["fine", "note", "refused"]
"""refused: a gate does not start, or cannot serve. note: a promise is weaker than it could be, or is not verified."""
SKEW_NOTED_MS: Final = 500.0
LAG_NOTED_S: Final = 5


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What was found. refusal: why a gate would not start now, in its words; None if it would"""

    survey: LedgerSurvey
    refusal: str | None

    @property
    def hindrance(self) -> str | None:
        """What a start would not notice and every request would meet; None if there is nothing."""
        if self.refusal is not None:
            return None
        refused = (one for one in findings(self.survey) if one.grade == "refused")
        return next((f"{one.subject}: {one.found}; {one.means}" for one in refused), None)

    @property
    def well(self) -> bool:
        """Whether a gate would start and serve."""
        return self.refusal is None and self.hindrance is None


@dataclass(frozen=True, slots=True)
class Finding:
    """One property of the servers. found: one value, or each value with its servers. means: for the ledger"""

    subject: str
    found: str
    means: str
    grade: Grade


def ledger_document(report: LedgerReport) -> dict[str, Any]:
    """The report as a JSON document."""
    survey = report.survey
    return {
        "ok": report.well,
        "refusal": report.refusal,
        "hindrance": report.hindrance,
        "topology": survey.topology,
        "address": survey.shown,
        "managed": None if survey.managed is None else asdict(survey.managed),
        "clock_skew_ms": None if survey.clock_skew_ms is None else round(survey.clock_skew_ms, 3),
        "nodes": [_node_document(node) for node in survey.nodes],
        "findings": [asdict(finding) for finding in findings(survey)],
    }


def _node_document(node: NodeReport) -> dict[str, Any]:
    document = asdict(node) | {"kept": None, "timing": None}
    if node.kept is not None:
        document["kept"] = {
            "persistence": node.kept.persistence,
            "verified": node.kept.verified,
            "warnings": list(node.kept.warnings),
        }
    if node.timing is not None:
        ahead_ms = node.timing.clock_ahead_ms
        document["timing"] = {
            "round_trip_ms": round(node.timing.round_trip_ms, 3),
            "clock_ahead_ms": None if ahead_ms is None else round(ahead_ms, 3),
        }
    document["missing_rights"] = list(node.missing_rights)
    return document


def findings(survey: LedgerSurvey) -> list[Finding]:
    """What the answers mean, in the order in which they matter. Servers that agree share one."""
    nodes = [node for node in survey.nodes if node.away is None]
    found = [
        Finding("reachable", f"not {node.name}", f"{node.away}; its shards are refused", "note")
        for node in survey.nodes
        if node.away is not None
    ]
    if survey.topology == "single server" and any(node.in_cluster for node in nodes):
        found.append(_ONE_OF_A_CLUSTER)
    for rule in _RULES:
        found += _merged(rule(node) for node in nodes)
    if (skew_ms := survey.clock_skew_ms) is not None:
        far = skew_ms > SKEW_NOTED_MS
        means = "deadlines and windows go by the clock of each server" if far else ""
        found.append(Finding("clock skew", f"{skew_ms:.1f} ms", means, "note" if far else "fine"))
    return found


_ONE_OF_A_CLUSTER: Final = Finding(
    "topology",
    "a node of a cluster",
    "write redis+cluster:// or rediss+cluster:// in `redis.url`",
    "refused",
)


@dataclass(frozen=True, slots=True)
class _Of:
    """A finding of one server."""

    node: str
    finding: Finding


def _merged(each: Iterable[_Of | None]) -> list[Finding]:
    groups: dict[Finding, list[str]] = {}
    for one in each:
        if one is not None:
            groups.setdefault(one.finding, []).append(one.node)
    if len(groups) == 1:
        return list(groups)
    return [
        Finding(f.subject, f"{f.found} ({', '.join(names)})", f.means, f.grade)
        for f, names in groups.items()
    ]


def _rule(
    subject: str, judge: Callable[[NodeReport], tuple[str, str, Grade] | None]
) -> Callable[[NodeReport], _Of | None]:
    def ask(node: NodeReport) -> _Of | None:
        judged = judge(node)
        return None if judged is None else _Of(node.name, Finding(subject, *judged))

    return ask


def _role(node: NodeReport) -> tuple[str, str, Grade]:
    if node.role == "primary":
        return "primary", "", "fine"
    return str(node.role), "the ledger needs the primary", "refused"


def _rights(node: NodeReport) -> tuple[str, str, Grade]:
    if not node.missing_rights:
        return "complete", "", "fine"
    return ", ".join(node.missing_rights), "grant them to the user (`ACL SETUSER`)", "refused"


def _scripts(node: NodeReport) -> tuple[str, str, Grade]:
    if node.scripts is None:
        return "run", "", "fine"
    return "do not run", node.scripts, "refused"


def _eviction(node: NodeReport) -> tuple[str, str, Grade]:
    if node.eviction is None:
        return "not said", "declare `redis.durability` if it is noeviction", "note"
    if node.eviction == "noeviction":
        return "noeviction", "", "fine"
    means = "an evicted record would be a double charge; set it to noeviction"
    return node.eviction, means, "refused"


def _config(node: NodeReport) -> tuple[str, str, Grade]:
    if node.settings is not None:
        return "allowed", "", "fine"
    means = (
        "grant `+config|get`, or declare `redis.durability`; without both the weakest is assumed"
    )
    return "refused", means, "note"


def _persistence(node: NodeReport) -> tuple[str, str, Grade] | None:
    if node.kept is None:
        return None
    verified = "" if node.kept.verified else " (not verified)"
    strong = node.kept.verified and node.kept.persistence == "aof_always"
    means = " ".join([PROMISES[node.kept.persistence], *node.kept.warnings])
    weak = not strong or bool(node.kept.warnings)
    return f"{node.kept.persistence}{verified}", means, "note" if weak else "fine"


def _replicas(node: NodeReport) -> tuple[str, str, Grade] | None:
    if node.replicas is None:
        return None
    if node.replicas.count == 0:
        return "none", "while the server is away, its customers are refused", "note"
    lag_s = node.replicas.lag_s
    late = lag_s is not None and lag_s > LAG_NOTED_S
    means = f"One is {lag_s} s behind. {FAILOVER}" if late else FAILOVER
    return str(node.replicas.count), means, "note"


def _least_replicas(node: NodeReport) -> tuple[str, str, Grade] | None:
    least = (node.settings or {}).get("min-replicas-to-write")
    if least is None or node.replicas is None or (least == "0" and node.replicas.count == 0):
        return None
    if least != "0":
        return least, "with fewer replicas in step, everything is refused", "fine"
    return "0", "a primary that is cut off goes on admitting, and a failover forgets it", "note"


def _coverage(node: NodeReport) -> tuple[str, str, Grade] | None:
    value = _cluster_setting(node, "cluster-require-full-coverage")
    if value == "yes":
        return "yes", "while one node is away, customers of all nodes are refused", "note"
    return None if value is None else (value, "", "fine")


def _node_timeout(node: NodeReport) -> tuple[str, str, Grade] | None:
    value = _cluster_setting(node, "cluster-node-timeout")
    if value is None:
        return None
    return f"{value} ms", "an election begins after this time without an answer", "fine"


def _cluster_state(node: NodeReport) -> tuple[str, str, Grade] | None:
    if node.cluster_state in (None, "ok"):
        return None if node.cluster_state is None else ("ok", "", "fine")
    return str(node.cluster_state), "shards of this node are refused", "note"


def _wait(node: NodeReport) -> tuple[str, str, Grade] | None:
    if node.waits is None:
        return None
    allowed = [name for name, may in node.waits.items() if may]
    return ", ".join(allowed) or "neither", "", "fine"


def _memory(node: NodeReport) -> tuple[str, str, Grade] | None:
    most, used = node.maxmemory_bytes, node.memory_bytes
    if not most or used is None:
        return None
    percent = round(100 * used / most)
    return f"{percent} %", "of maxmemory; at 100 % nothing is admitted", "fine"


def _cluster_setting(node: NodeReport, name: str) -> str | None:
    return (node.settings or {}).get(name) if node.in_cluster else None


_RULES: Final[Sequence[Callable[[NodeReport], _Of | None]]] = (
    _rule("role", _role),
    _rule("rights", _rights),
    _rule("scripts", _scripts),
    _rule("maxmemory-policy", _eviction),
    _rule("CONFIG GET", _config),
    _rule("persistence", _persistence),
    _rule("replicas", _replicas),
    _rule("min-replicas-to-write", _least_replicas),
    _rule("cluster state", _cluster_state),
    _rule("cluster-require-full-coverage", _coverage),
    _rule("cluster-node-timeout", _node_timeout),
    _rule("WAIT, WAITAOF", _wait),
    _rule("memory used", _memory),
)


def node_rows(survey: LedgerSurvey) -> list[Mapping[str, str]]:
    """A row for each server that answered, for a table: what differs in any case. `findings` has the rest."""
    return [
        {
            "server": node.name,
            "product": str(node.server),
            "shards": str(node.shards),
            "replicas": "" if node.replicas is None else str(node.replicas.count),
            "round trip": "" if node.timing is None else f"{node.timing.round_trip_ms:.2f} ms",
            "clock ahead": _ahead(node),
        }
        for node in survey.nodes
        if node.away is None
    ]


def _ahead(node: NodeReport) -> str:
    if node.timing is None or node.timing.clock_ahead_ms is None:
        return "not said"
    return f"{node.timing.clock_ahead_ms:.1f} ms"
