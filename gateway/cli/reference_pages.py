"""Write the generated reference pages: commands, metrics, log events; and the generated parts of
two handwritten ones: the rules of the outcomes, the JSON Schema of a usage event's facts.

`make docs` runs `python -m gateway.cli.reference_pages docs/reference`; a test fails while a page
differs from what the code says.
"""

import ast
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import typer.main
from pydantic import TypeAdapter

from gateway.cli import _GROUPS, app
from gateway.domain.usage_facts import RequestLabels, UsageFacts, is_required
from gateway.flow.reservation.outcome import OUTCOMES
from gateway.telemetry.log_events import MEANINGS, READINESS_WORDS
from gateway.telemetry.metrics import Snapshot
from gateway.telemetry.names import GateMetrics, SupervisorMetrics, exporter_snapshot

_PACKAGE: Final = Path(__file__).parents[1]
_LEVELS: Final = ("debug", "info", "warning", "error", "exception", "critical")
_NOT_CALLED: Final = (
    ("request", "info", "telemetry/logs.py"),
    ("library", "any", "telemetry/logs.py"),
)
"""Events that are written without a call that names them: the request line, libraries' records."""


@dataclass(frozen=True, slots=True)
class LogCall:
    """One call that writes a log event. `name` is None where the name is computed."""

    name: str | None
    level: str
    file: str


def cli_page() -> str:
    """Every command with its arguments and options, from typer's command tree."""
    for group in _GROUPS:
        importlib.import_module(f"gateway.cli.{group}")
    root = typer.main.get_command(app)
    parts = [_head("Commands", "gateway/cli"), "Every command prints the same with `--help`.\n"]
    parts += _commands(root, "creditgate")
    return "\n".join(parts).rstrip() + "\n"


def _commands(command: Any, path: str) -> Iterator[str]:
    children: Mapping[str, Any] = getattr(command, "commands", {})
    for name in sorted(children):
        child = children[name]
        if child.hidden:
            continue
        full = f"{path} {name}"
        yield f"## `{full}`\n" if path == "creditgate" else f"### `{full}`\n"
        text = "\n\n".join(" ".join(part.split()) for part in (child.help or "").split("\n\n"))
        yield text + "\n"
        if hasattr(child, "commands"):
            yield from _commands(child, full)
            continue
        shown = [_parameter(each) for each in child.params if not getattr(each, "hidden", False)]
        rows = [row for row in shown if row is not None]
        if rows:
            yield "| parameter | default | meaning |\n|---|---|---|"
            yield from rows
            yield ""


def _parameter(parameter: Any) -> str | None:
    if parameter.name == "help":
        return None
    option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if option else [parameter.name.upper()]
    spelled = ", ".join(f"`{name}`" for name in names)
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif callable(default) or default is None or default is False or default in ((), [], ""):
        shown = "–"
    else:
        shown = f"`{default}`"
    meaning = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
    return f"| {spelled} | {shown} | {meaning} |"


def metrics_page() -> str:
    """Every metric by the process that counts it, from the registries in `telemetry/names.py`."""
    groups: tuple[tuple[str, Snapshot], ...] = (
        ("Workers", GateMetrics().registry.snapshot()),
        ("Exporter", exporter_snapshot({})),
        ("Supervisor", SupervisorMetrics().registry.snapshot()),
    )
    parts = [
        _head("Metrics", "gateway/telemetry/names.py"),
        "Prometheus text on the admin port, `GET /metrics`, with the admin token. Durations are in "
        "seconds, amounts in credits. Only metrics of the exporter with the label `customer` or `model` "
        "carry such names, and only the `export.metrics_top` that sold most.\n\n"
        "Counters and histograms are sums over all workers since the gate started. What to watch is in "
        "[operations](../how-to/operations.md#monitoring).\n",
    ]
    for process, metrics in groups:
        parts.append(f"## {process}\n\n| metric | type | labels | meaning |\n|---|---|---|---|")
        for name, metric in metrics.items():
            labels = ", ".join(f"`{label}`" for label in metric["labels"]) or "–"
            parts.append(f"| `{name}` | {metric['kind']} | {labels} | {metric['help']} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def log_calls(package: Path = _PACKAGE) -> list[LogCall]:
    """Every call of a logger in the package, by file and line."""
    found = []
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            call = _log_call(node)
            if call is not None:
                found.append(LogCall(*call, file.relative_to(package).as_posix()))
    return found


def _log_call(node: ast.AST) -> tuple[str | None, str] | None:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    logger = node.func.value
    name = logger.id if isinstance(logger, ast.Name) else getattr(logger, "attr", "")
    if name.strip("_") != "log" or node.func.attr not in _LEVELS or not node.args:
        return None
    event = node.args[0]
    spelled = isinstance(event, ast.Constant) and isinstance(event.value, str)
    return (event.value if spelled else None), node.func.attr  # type: ignore[attr-defined]


def log_events_page() -> str:
    """Every log event with its level and file, from the calls in the code."""
    places: dict[str, set[tuple[str, str]]] = {}
    for call in log_calls():
        if call.name is not None:
            level = "error" if call.level == "exception" else call.level
            places.setdefault(call.name, set()).add((level, call.file))
    for name, level, file in _NOT_CALLED:
        places.setdefault(name, set()).add((level, file))
    parts = [
        _head("Log events", "gateway/telemetry/log_events.py"),
        "Logs are JSON lines on stderr (readable lines on a terminal). Each has `at`, `level`, "
        "`process` and `event`; other fields depend on the event. Bodies, keys, query strings and "
        "texts of foreign exceptions are never logged.\n",
        READINESS_WORDS + "\n",
        "| event | level | written by | meaning |\n|---|---|---|---|",
    ]
    for name in sorted(places):
        levels = ", ".join(sorted({level for level, _ in places[name]}))
        files = ", ".join(f"`{file}`" for file in sorted({file for _, file in places[name]}))
        parts.append(f"| `{name}` | {levels} | {files} | {MEANINGS.get(name, '')} |")
    return "\n".join(parts) + "\n"


def _head(title: str, source: str) -> str:
    return f"# {title}\n\n<!-- Generated by `make docs` from {source}. Do not edit. -->\n"


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "cli.md": cli_page,
    "metrics.md": metrics_page,
    "log-events.md": log_events_page,
}


def outcome_rules() -> str:
    """The rows by which an outcome is decided, in order of precedence."""
    rows = [
        f"| {n} | `{row.name}` | {row.when} | {row.charged} |" for n, row in enumerate(OUTCOMES, 1)
    ]
    return "\n".join(["| | rule | when | charged |\n|---|---|---|---|", *rows]) + "\n"


def facts_schema() -> str:
    """The JSON Schema of a usage event's facts, from the dataclasses that the gate packs."""
    properties: dict[str, Any] = {}
    for part in (RequestLabels, UsageFacts):
        for name, shape in TypeAdapter(part).json_schema()["properties"].items():
            properties[name] = {
                key: value for key, value in shape.items() if key not in ("title", "default")
            }
    required = [
        each.name
        for part in (RequestLabels, UsageFacts)
        for each in fields(part)
        if is_required(each)
    ]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "facts of a usage event",
        "type": "object",
        "properties": properties,
        "required": required,
    }
    return f"```json\n{json.dumps(schema, indent=2)}\n```\n"


BLOCKS: Final[Mapping[tuple[str, str], Callable[[], str]]] = {
    ("outcomes.md", "rules"): outcome_rules,
    ("events.md", "schema"): facts_schema,
}
"""Generated parts by page and marker: they stand between `<!-- NAME -->` and `<!-- /NAME -->`."""


def fill(page: str, name: str, block: str) -> str:
    """Return the page with the part of that name replaced. Raises ValueError if it has none."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    filled, count = marked.subn(lambda found: found[1] + block + found[2], page)
    if count != 1:
        raise ValueError(f"the page has {count} parts named {name!r}; it needs one")
    return filled


def write(folder: Path) -> None:
    """Write every page and every generated part into the folder."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
    for (name, part), block in BLOCKS.items():
        file = folder / name
        file.write_text(fill(file.read_text(encoding="utf-8"), part, block()), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
