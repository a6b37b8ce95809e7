"""Plans for tests: short, small, on one address."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.tester.plan import Flag, Plan, load_plan
from loadtest.tester.report import Report
from loadtest.tester.run import Run
from loadtest.tester.session import Outcome


def plan_for(
    url: str,
    *,
    targets: Sequence[str] = (),
    keys: Sequence[dict[str, str]] = ({"key": "k"},),
    models: Sequence[dict[str, str]] = ({"model": "m"},),
    direct: dict[str, str] | None = None,
    requests: dict[str, Any] | None = None,
    trace: Path | None = None,
    **load: Any,
) -> Plan:
    """A plan whose load has one sending process and no warm-up, unless said otherwise."""
    values: dict[tuple[str, ...], Any] = {
        ("url",): url,
        ("targets",): list(targets),
        ("requests",): {
            "models": list(models),
            "keys": list(keys),
            "simulate": "",
            **(requests or {}),
        },
        ("load", "warmup"): "0s",
        ("load", "processes"): "1",
        ("load", "duration"): "500ms",
        ("load", "timeout"): "10s",
        ("direct",): direct or {},
    }
    for name, value in load.items():
        values["load", name] = value if isinstance(value, list) else str(value)
    if trace is not None:
        values["load", "trace"] = str(trace)
    return load_plan(None, [Flag(path, ".".join(path), value) for path, value in values.items()])


async def report_of(plan: Plan, on_tick: Any = None) -> Report:
    """Carry a plan out."""

    def tick(_course: object, outcome: Outcome) -> None:
        if on_tick is not None:
            on_tick(outcome)

    return await Run(plan, on_tick=tick, on_stage=lambda _stage: None).run()
