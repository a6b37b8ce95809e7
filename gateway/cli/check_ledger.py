"""`check --connect`: what the ledger's servers allow and keep, as tables."""

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.cli.output import out, plain, row, table
from gateway.ledger.client.durability import PROMISES
from gateway.operations.ledger_report import LedgerReport, findings, node_rows

_STYLE: Final = {"fine": "", "note": "yellow", "refused": "red"}


def print_ledger(report: LedgerReport) -> None:
    """Print the report."""
    survey = report.survey
    out.print(plain(f"Ledger: {survey.topology}, {survey.shown}", "bold"), soft_wrap=True)
    if survey.managed is not None:
        service = survey.managed
        out.print(plain(f"{service.name}: {service.sentence} See {service.page}."), soft_wrap=True)
    if not survey.nodes and report.refusal is None:
        out.print(f"It does not run now; `creditgate serve` starts it. {PROMISES['aof_always']}")
        return
    print_servers(node_rows(survey))
    found = table("property", "found", "what it means", whole=("property",))
    for finding in findings(survey):
        row(found, (finding.subject, finding.found, finding.means), _STYLE[finding.grade] or None)
    if found.row_count:
        out.print(found)
    if report.refusal is not None:
        out.print(plain(f"A gate does not start: {report.refusal}", "red"), soft_wrap=True)
    elif report.hindrance is not None:
        out.print(plain(f"A gate starts, and cannot serve: {report.hindrance}", "red"))
    else:
        out.print(plain("A gate starts on this ledger.", "green"))


def print_servers(rows: Sequence[Mapping[str, str]]) -> None:
    """Print a row for each; the address of a single one is in the line above."""
    if not rows:
        return
    columns = [name for name in rows[0] if len(rows) > 1 or name != "server"]
    servers = table(*columns, right=("shards", "replicas"), whole=("server", "product"))
    for each in rows:
        row(servers, [each[name] for name in columns])
    out.print(servers)
