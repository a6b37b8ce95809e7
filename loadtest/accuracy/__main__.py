"""`make accuracy`: run every contender in turn, judge, write table, JSON and chart."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loadtest.accuracy import chart, report
from loadtest.accuracy.contenders import Contender
from loadtest.accuracy.peers import contenders
from loadtest.accuracy.report import Report
from loadtest.accuracy.run import Outcome, run
from loadtest.accuracy.scenario import Scenario

CHANGEABLE = ("tenants", "streams", "replicas", "budget", "median", "sigma", "itl_ms", "seed")


def run_all(
    chosen: list[Contender], scenario: Scenario, repetitions: int, console: Console
) -> Report:
    """Every contender once in each repetition, so that all see the same minutes of the machine."""
    outcomes: list[Outcome] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    budget = scenario.tenants * scenario.budget
    with Progress(*columns, console=console, transient=True) as progress:
        whole = progress.add_task("all", total=len(chosen) * repetitions * budget)
        for repetition in range(repetitions):
            for contender in chosen:
                started = len(outcomes) * budget
                name = f"{contender.name} · {repetition + 1}/{repetitions}"
                task = progress.add_task(name, total=budget)

                def tell(tokens: int, *, task: object = task, started: int = started) -> None:
                    progress.update(task, completed=min(tokens, budget))  # type: ignore[arg-type]
                    progress.update(whole, completed=started + min(tokens, budget))

                outcomes.append(run(contender, scenario, repetition, tell))
                progress.remove_task(task)
                progress.update(whole, completed=started + budget)
    return Report(scenario, repetitions, chosen, outcomes)


def _installed(peers: Path | None, name: str) -> Path | None:
    """The Python of a peer's environment, where it is installed."""
    if peers is None:
        return None
    python = peers.absolute().with_name(f"{peers.name}-{name}") / "bin" / "python"
    return python if python.exists() else None


def main() -> None:
    """Entry point of `python -m loadtest.accuracy`."""
    parser = argparse.ArgumentParser(prog="loadtest.accuracy", description=__doc__)
    parser.add_argument("--peers", type=Path, help="peers are in PEERS-hardcap, PEERS-tensorzero")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--only", action="append", help="contenders by the start of their name")
    parser.add_argument("--out", type=Path, default=Path("reports/accuracy"), help="folder")
    for changeable in fields(Scenario):
        if changeable.name in CHANGEABLE:
            parser.add_argument(
                f"--{changeable.name.replace('_', '-')}",
                type=type(changeable.default),
                default=changeable.default,
            )
    arguments = parser.parse_args()
    scenario = replace(Scenario(), **{name: getattr(arguments, name) for name in CHANGEABLE})
    hardcap, tensorzero = (_installed(arguments.peers, name) for name in ("hardcap", "tensorzero"))
    chosen = contenders(hardcap, tensorzero)
    if arguments.only:
        chosen = [one for one in chosen if one.name.startswith(tuple(arguments.only))]
        if not chosen:
            raise SystemExit(f"no contender begins with {' or '.join(arguments.only)}")
    console = Console()
    console.width = max(console.width, report.WIDTH)
    if hardcap is None:
        console.print("hardcap is not installed: time and refusals are not judged.")
    if tensorzero is None:
        console.print("TensorZero is not installed: it is left out.")
    made = run_all(chosen, scenario, arguments.repetitions, console)
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = arguments.out / "accuracy.json"
    figures.write_bytes(orjson.dumps(made.as_json(), option=orjson.OPT_INDENT_2))
    for end in ("svg", "png"):
        chart.draw(made, arguments.out / f"accuracy.{end}")
    report.show(made, console)
    console.print(f"figures: {figures} · chart: {arguments.out / 'accuracy.svg'}")


if __name__ == "__main__":
    main()
