"""`loadtest`: load on a gate, judged by targets, with a report."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli import app, dev_state
from gateway.cli.dev import DATA_DIR
from gateway.cli.loadtest_compare import print_comparison
from gateway.cli.output import err, fail, out, plain

_NEEDED: Final = ("hdrh", "jinja2", "matplotlib", "psutil")
_EXIT: Final = {"met": 0, "none": 0, "missed": 1, "inconclusive": 3}
_DEV_MODEL: Final = "sim-small"
_DEV_KEY: Final = "sk-load"
"""The customer of `config/dev.yaml` that has credit for many requests."""
_HOW = "How much"
_WHAT = "What is asked"
_LEFT = "What is left behind"


@app.command()
def loadtest(
    url: Annotated[
        str | None, typer.Argument(help="The gate; without it the one that `make run` started.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", "-f", help="A YAML file; flags win over it.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="'p99<25ms', 'added p99<2ms', 'errors<0.1%', 'rate>=200'; again for more.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", "-r", help="Requests a second, open loop.", rich_help_panel=_HOW),
    ] = None,
    connections: Annotated[
        str | None,
        typer.Option(
            "--connections",
            "-c",
            help="Closed loop: so many clients, each waiting.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    ramp: Annotated[
        str | None, typer.Option(help="Let the rate rise: 50..500.", rich_help_panel=_HOW)
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Rates in turn: 100,200,400.", rich_help_panel=_HOW)
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(help="Highest rate that meets the targets: 100..4000.", rich_help_panel=_HOW),
    ] = None,
    trace: Annotated[
        str | None, typer.Option(help="Play a JSONL trace.", rich_help_panel=_HOW)
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--duration", "-d", help="How long to measure: 30s, 2m.", rich_help_panel=_HOW
        ),
    ] = None,
    warmup: Annotated[
        str | None, typer.Option(help="How long to load before that.", rich_help_panel=_HOW)
    ] = None,
    arrivals: Annotated[
        str | None, typer.Option(help="poisson or constant.", rich_help_panel=_HOW)
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option("--processes", "-p", help="Sending processes.", rich_help_panel=_HOW),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help="Give a request up after this.", rich_help_panel=_HOW)
    ] = None,
    seed: Annotated[
        str | None, typer.Option(help="Of every random draw.", rich_help_panel=_HOW)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="NAME or NAME=WEIGHT; again for more.", rich_help_panel=_WHAT
        ),
    ] = None,
    api: Annotated[
        str | None, typer.Option(help="openai or anthropic.", rich_help_panel=_WHAT)
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            "-k",
            help="A customer's key, or KEY=WEIGHT; again for more.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    stream: Annotated[
        str | None, typer.Option(help="Share of streams: 0, 0.5, 1.", rich_help_panel=_WHAT)
    ] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option(help="400, or lognormal:400:0.8.", rich_help_panel=_WHAT)
    ] = None,
    output_tokens: Annotated[
        str | None, typer.Option(help="150, or lognormal:150:0.6.", rich_help_panel=_WHAT)
    ] = None,
    simulate: Annotated[
        str | None,
        typer.Option(
            help="How the simulated provider answers: 'ttft_ms=200 itl_ms=20'.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    direct: Annotated[
        str | None,
        typer.Option(
            help="The upstream itself: measures what the gate adds.", rich_help_panel=_WHAT
        ),
    ] = None,
    direct_key: Annotated[
        str | None,
        typer.Option(
            envvar="CREDITGATE_DIRECT_KEY", help="The upstream's own key.", rich_help_panel=_WHAT
        ),
    ] = None,
    ca_file: Annotated[
        str | None, typer.Option(help="Authority of their certificates.", rich_help_panel=_WHAT)
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PID or NAME=:PORT: watch this process too.", rich_help_panel=_WHAT),
    ] = None,
    data_dir: Annotated[
        Path,
        typer.Option(
            envvar="CREDITGATE_DATA_DIR", help="Of `make run`, to find it.", rich_help_panel=_WHAT
        ),
    ] = DATA_DIR,
    report: Annotated[
        str | None,
        typer.Option(
            "--report",
            "-o",
            help="The report; its data goes next to it, as .json.",
            rich_help_panel=_LEFT,
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="The report's title.", rich_help_panel=_LEFT)
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Compare two reports instead, before and after; -o writes a page.",
            rich_help_panel=_LEFT,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report's data instead.", rich_help_panel=_LEFT)
    ] = False,
) -> None:
    """Put load on a gate, judge it by targets, and write a report.

    Exit 0: the targets are met. 1: missed. 2: the plan is wrong. 3: missed, but the load generator
    was the limit, so that the result says nothing about the gate.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise fail(
            f"the load tester needs {', '.join(missing)}: `make loadtest` installs them, or "
            "pip install 'creditgate[loadtest]'",
            2,
        )
    if compare is not None:
        print_comparison(*compare, report, as_json=as_json)
        return
    given: dict[str, tuple[tuple[str, ...], Any]] = {
        "URL": (("url",), url),
        "--ca-file": (("ca_file",), ca_file and str(Path(ca_file).absolute())),
        "--direct": (("direct", "url"), direct),
        "--direct-key": (("direct", "key"), direct_key),
        "--rate": (("load", "rate"), rate),
        "--connections": (("load", "connections"), connections),
        "--ramp": (("load", "ramp"), ramp),
        "--steps": (("load", "steps"), steps and [step.strip() for step in steps.split(",")]),
        "--search": (("load", "search"), search),
        "--trace": (("load", "trace"), trace and str(Path(trace).absolute())),
        "--duration": (("load", "duration"), duration),
        "--warmup": (("load", "warmup"), warmup),
        "--arrivals": (("load", "arrivals"), arrivals),
        "--processes": (("load", "processes"), processes),
        "--timeout": (("load", "timeout"), timeout),
        "--seed": (("load", "seed"), seed),
        "--model": (("requests", "models"), model and [_weighted(word, "model") for word in model]),
        "--key": (("requests", "keys"), key and [_weighted(word, "key") for word in key]),
        "--api": (("requests", "api"), api),
        "--stream": (("requests", "stream"), stream),
        "--prompt-tokens": (("requests", "prompt_tokens"), prompt_tokens),
        "--output-tokens": (("requests", "output_tokens"), output_tokens),
        "--simulate": (("requests", "simulate"), simulate),
        "--target": (("targets",), target),
        "--watch": (("processes",), watch and dict(map(_named, watch))),
        "--report": (("report", "file"), report),
        "--title": (("report", "title"), title),
    }
    raise typer.Exit(_run(plan, given, dev_state.read(data_dir), as_json=as_json))


def _run(
    file: Path | None,
    given: dict[str, tuple[tuple[str, ...], Any]],
    dev: dev_state.DevGate | None,
    *,
    as_json: bool,
) -> int:
    # What the extra `loadtest` installs is imported here, so that the other commands go without.
    from loadtest.tester.live import Screen, summary
    from loadtest.tester.plan import Flag, PlanError, load_plan
    from loadtest.tester.run import Run
    from loadtest.tester.session import SenderFailed
    from loadtest.tester.trace import BadTrace

    def defaults(url: str | None) -> list[Flag]:
        if dev is None or url not in (None, dev.url):
            return []
        return [
            Flag(path, "of `make run`", value)
            for path, value in (
                (("url",), dev.url),
                (("direct", "url"), dev.provider_url),
                (("requests", "models"), [{"model": _DEV_MODEL}]),
                (("requests", "keys"), [{"key": _DEV_KEY}]),
                (("requests", "simulate"), ""),
            )
        ]

    flags = [Flag(path, name, value) for name, (path, value) in given.items() if value]
    screen = Screen(err, shown=not as_json)
    try:
        plan = load_plan(file, flags, defaults)
        run = Run(plan, on_tick=screen.on_tick, on_stage=screen.on_stage)
        with screen.running():
            report = asyncio.run(run.run())
    except PlanError as error:
        raise fail("\n".join(error.problems), 2) from None
    except (BadTrace, SenderFailed, OSError) as error:
        raise fail(str(error), 2) from None
    except KeyboardInterrupt:
        err.print(plain("\nStopped; nothing is left running, no report is written.", "yellow"))
        return 130
    # draws: slow to load, and not before it is needed
    from loadtest.tester.page import write_report

    page = write_report(report, Path(plan.report.file))
    if as_json:
        out.print_json(report.model_dump_json())
    else:
        out.print(summary(report))
        out.print(plain(f"report: {page}   data: {page.with_suffix('.json')}", "bold"))
    return _EXIT[report.verdict]


def _weighted(word: str, name: str) -> dict[str, str]:
    """`NAME` or `NAME=WEIGHT`."""
    head, equals, weight = word.rpartition("=")
    if equals and weight.replace(".", "", 1).isdigit():
        return {name: head, "weight": weight}
    return {name: word}


def _named(word: str) -> tuple[str, str]:
    """`NAME=PID` or `NAME=:PORT`."""
    name, equals, whom = word.partition("=")
    if not equals:
        raise typer.BadParameter(f"{word!r} is not NAME=PID or NAME=:PORT", param_hint="--watch")
    return name, whom
