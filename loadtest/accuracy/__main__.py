"""`make accuracy`: run every contender in turn, judge, write table, JSON and chart."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from loadtest.accuracy import chart, report
from loadtest.accuracy.contenders import Contender, contenders
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


def main() -> None:
    """Entry point of `python -m loadtest.accuracy`."""
    parser = argparse.ArgumentParser(prog="loadtest.accuracy", description=__doc__)
    parser.add_argument("--hardcap", type=Path, help="the Python that has hardcap installed")
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
    chosen = contenders(arguments.hardcap)
    if arguments.only:
        chosen = [one for one in chosen if one.name.startswith(tuple(arguments.only))]
        if not chosen:
            raise SystemExit(f"no contender begins with {' or '.join(arguments.only)}")
    console = Console()
    console.width = max(console.width, report.WIDTH)
    if arguments.hardcap is None:
        console.print("Without hardcap (--hardcap PYTHON): time and refusals are not judged.")
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
