"""The plan of a load test: a YAML file, overridden by flags, checked completely.

Invariants: all mistakes are reported together, those of the file by line and column, those of the
command line by flag. A flag overrides the file.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ValidationError, WithJsonSchema, model_validator

from gateway.settings.document import Document
from gateway.settings.explaining import explain
from gateway.settings.problems import Path, Wrong, show_path
from gateway.settings.scalars import (
    BaseUrl,
    InputFile,
    ModelName,
    Secret,
    Section,
    Share,
    Switch,
    Text,
    Tokens,
    Whole,
    field,
)
from loadtest.faults import BadControl, Controls, Dist, parse_controls, parse_dist
from loadtest.tester.targets import EXAMPLE, BadTarget, Target, parse_target

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(s|ms)?)?")
_NUMBER: Final = re.compile(r"\d{1,9}(?:\.\d{1,6})?")
MOST_RATE: Final = 1_000_000.0


class PlanError(Exception):
    """The plan cannot be carried out; `problems` are all its mistakes."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _duration(value: Any) -> float:
    text = str(value).strip()
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        raise Wrong(f"{text!r} is not a duration", "Write such as 30s, 2m or 500ms.")
    hours, minutes, rest, unit = found.groups()
    seconds = int(hours or 0) * 3600 + int(minutes or 0) * 60
    return seconds + float(rest or 0) * (1e-3 if unit == "ms" else 1)


def _some_time(value: Any) -> float:
    seconds = _duration(value)
    if not 0.1 <= seconds <= 86_400:
        raise Wrong(f"{value!r} is outside 100ms … 24h")
    return seconds


def _number(value: Any) -> float:
    text = str(value).strip()
    if not _NUMBER.fullmatch(text):
        raise Wrong(f"{text!r} is not a number", "Write such as 200 or 0.5.")
    return float(text)


def _rate(value: Any) -> float:
    rate = _number(value)
    if not 0 < rate <= MOST_RATE:
        raise Wrong(f"{value!r} is not a rate", "Write requests a second, such as 200.")
    return rate


def _distribution(value: Any) -> Dist:
    try:
        return parse_dist(str(value).strip())
    except ValueError:
        raise Wrong(
            f"{value!r} is not a distribution",
            "Write 400, uniform:10:800, exp:400 or lognormal:MEDIAN:SIGMA.",
        ) from None


def _target(value: Any) -> Target:
    try:
        return parse_target(str(value))
    except BadTarget as error:
        raise Wrong(str(error), EXAMPLE) from None


def _controls(value: Any) -> str:
    text = "" if value is None else str(value)
    try:
        parse_controls(Controls(), text)
    except BadControl as error:
        raise Wrong(str(error), "loadtest/faults.py lists them.") from None
    return text


def _between(value: Any) -> tuple[float, float]:
    low, dots, high = str(value).partition("..")
    if not dots:
        raise Wrong(f"{value!r} is not a range", "Write such as 50..500.")
    return _rate(low), _rate(high)


def _whom(value: Any) -> str:
    text = str(value)
    if not re.fullmatch(r":\d{1,5}|\d{1,8}", text):
        raise Wrong(f"{text!r} is no process", "Write its id, such as 4711, or its port, :6379.")
    return text


_STRING: Final = WithJsonSchema({"type": "string"})
Duration = Annotated[float, BeforeValidator(_duration), _STRING]
"""Seconds, written 30s, 2m or 500ms."""
SomeTime = Annotated[float, BeforeValidator(_some_time), _STRING]
Number = Annotated[float, BeforeValidator(_number)]
Rate = Annotated[float, BeforeValidator(_rate)]
Range = Annotated[tuple[float, float], BeforeValidator(_between), _STRING]
Distribution = Annotated[Dist, BeforeValidator(_distribution), _STRING]
TargetText = Annotated[Target, BeforeValidator(_target), _STRING]
SimControls = Annotated[str, BeforeValidator(_controls)]
Whom = Annotated[str, BeforeValidator(_whom)]


class DirectSection(Section):
    """The same requests past the gate, in the same run."""

    url: BaseUrl | None = field("The upstream itself.", "http://127.0.0.1:9001", None)
    key: Secret | None = field("The upstream's own key.", "${OPENAI_API_KEY}", None)
    share: Share = field("Its load, as a share of the gate's.", "0.2", 0.2)


class LoadSection(Section):
    """How much, how long."""

    rate: Rate | None = field(
        "Requests a second, whatever the answers take (open loop).", "200", None
    )
    connections: Annotated[int, Whole(1, 100_000)] | None = field(
        "Closed loop instead: so many clients, each waiting for its answer.", "32", None
    )
    ramp: Range | None = field("Let the rate rise in a straight line.", "50..500", None)
    steps: tuple[Rate, ...] | None = field(
        "Rates, one after the other, each for `duration`.", "[100, 200, 400]", None
    )
    search: Range | None = field(
        "Search the highest rate that meets the targets, between these.", "100..4000", None
    )
    precision: Share = field("How closely a search looks.", "0.05", 0.05)
    trace: InputFile | None = field("Play this JSONL file.", "trace.jsonl", None)
    speed: Rate = field("How fast to play it.", "2", 1.0)
    arrivals: Literal["poisson", "constant"] = field(
        "How requests are spaced.", "poisson", "poisson"
    )
    duration: SomeTime = field("How long to measure.", "30s", 30.0)
    warmup: Duration = field("How long to load before measuring.", "5s", 5.0)
    timeout: SomeTime = field("Give a request up after this.", "30s", 30.0)
    processes: Annotated[int, Whole(1, 64)] = field("Sending processes.", "2", 2)
    max_connections: Annotated[int, Whole(1, 100_000)] = field(
        "Most connections of an open loop, over all processes.", "2000", 2000
    )
    seed: Annotated[int, Whole(0, 2**31)] = field("Of every random draw.", "1", 1)

    @model_validator(mode="after")
    def _one_shape(self) -> "LoadSection":
        given = [
            name
            for name in ("rate", "connections", "ramp", "steps", "search", "trace")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            said = " and ".join(given)
            raise Wrong(f"{said} exclude each other", "Keep one of them.", at=given[1])
        for name, low, high in (
            ("ramp", *(self.ramp or (0, 1))),
            ("search", *(self.search or (0, 1))),
        ):
            if low >= high:
                raise Wrong("must go from less to more", "Write such as 50..500.", at=name)
        if self.steps is not None and not self.steps:
            raise Wrong("names no rate", at="steps")
        return self


class ModelSection(Section):
    """A model of the mix."""

    model: ModelName = field("Its name at the gate.", "sim-small")
    api: Literal["openai", "anthropic"] | None = field("Its API.", "openai", None)
    weight: Number = field("Its share, against the others'.", "3", 1.0)
    stream: Share | None = field("Which share of its requests are streams.", "0.5", None)


class KeySection(Section):
    """A customer of the mix."""

    key: Secret = field("A key of the customer.", "${LOADTEST_KEY}")
    weight: Number = field("Its share, against the others'.", "9", 1.0)


class RequestsSection(Section):
    """What is asked."""

    models: tuple[ModelSection, ...] = field("The models.", [{"model": "sim-small"}], ())
    keys: tuple[KeySection, ...] = field("The customers.", [{"key": "sk-demo"}], ())
    api: Literal["openai", "anthropic"] = field(
        "The API of models that name none.", "openai", "openai"
    )
    stream: Share = field("Share of streams, of models that name none.", "0.5", 0.0)
    prompt_tokens: Distribution = field(
        "Length of the prompt.", "lognormal:400:0.8", Dist("fixed", 200)
    )
    output_tokens: Distribution = field(
        "Length of the answer.", "lognormal:150:0.6", Dist("fixed", 16)
    )
    max_tokens: Tokens | None = field("What requests allow; else the length drawn.", "1024", None)
    simulate: SimControls | None = field(
        "The upstream is the simulated provider: how it shall answer.",
        "ttft_ms=200 itl_ms=20",
        None,
    )


class ReportSection(Section):
    """What is left behind."""

    file: Text = field(
        "The report; its data goes next to it, as .json.",
        "reports/loadtest.html",
        "reports/loadtest.html",
    )
    title: Text = field("Its title.", "Checkout gate, 4 workers", "Load test")


class Plan(Section):
    """A whole load test."""

    url: BaseUrl | None = field("The gate.", "http://127.0.0.1:8080", None)
    ca_file: InputFile | None = field("Authority of its certificate.", "ca.pem", None)
    direct: DirectSection = field(
        "The upstream without the gate.", {"share": "0.2"}, factory=DirectSection
    )
    load: LoadSection = field("How much.", {"rate": "200"}, factory=LoadSection)
    requests: RequestsSection = field("What is asked.", {}, factory=RequestsSection)
    targets: tuple[TargetText, ...] = field("What must be met.", ["p99<25ms"], ())
    processes: Mapping[Text, Whom] = field(
        "Processes to watch in addition to those found, by name: an id, or a port.",
        {"ledger": ":6379"},
        factory=dict,
    )
    report: ReportSection = field("The report.", {}, factory=ReportSection)
    progress: Switch = field("Show progress.", "true", True)

    @model_validator(mode="after")
    def _fits(self) -> "Plan":
        if self.url is None:
            raise Wrong(
                "names no gate", "Give its URL; one that `make run` started is found.", at="url"
            )
        if not self.requests.models:
            raise Wrong(
                "names no model", "Write `models: [{model: NAME}]`, or --model NAME.", at="requests"
            )
        if not self.requests.keys:
            raise Wrong("names no key", "Write `keys: [{key: KEY}]`, or --key KEY.", at="requests")
        if self.load.search is not None and not self.targets:
            raise Wrong("a search needs targets", EXAMPLE, at="targets")
        return self


@dataclass(frozen=True, slots=True)
class Flag:
    """A value from the command line: where it goes in the plan, and what it is called there."""

    path: Path
    name: str
    value: Any


_SHAPES: Final = ("rate", "connections", "ramp", "steps", "search", "trace")


def load_plan(
    file: FilePath | None,
    flags: Sequence[Flag],
    defaults: Callable[[Any], Sequence[Flag]] = lambda _url: (),
    environ: Mapping[str, str] = os.environ,
) -> Plan:
    """The plan of a file and flags.

    defaults: what stands where neither says anything, for the URL that they name, or None

    Raises PlanError.
    """
    problems: list[str] = []
    tree: dict[str, Any] = {}
    document = None
    if file is not None:
        document = Document(file, environ)
        tree = document.tree
        problems = [str(problem) for problem in document.problems]
    shape = [flag for flag in flags if flag.path[0] == "load" and flag.path[-1] in _SHAPES]
    if shape and isinstance(tree.get("load"), dict):
        for name in _SHAPES:  # another shape on the command line replaces the file's
            tree["load"].pop(name, None)
    for flag in flags:
        _put(tree, flag.path, flag.value)
    for default in defaults(tree.get("url")):
        if _at(tree, default.path) is None:
            _put(tree, default.path, default.value)
    folder = document.folder if document is not None else FilePath()
    try:
        plan = Plan.model_validate(tree, context={"folder": folder})
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            finding = explain(error, Plan)
            named = [flag.name for flag in flags if finding.path[: len(flag.path)] == flag.path]
            if named or document is None:
                where = named[0] if named else show_path(finding.path)
                problems.append(f"{where}: {finding.message}. {finding.hint}".rstrip())
            elif finding.path not in document.unread:
                problems.append(str(document.problem(finding)))
        raise PlanError(problems) from None
    if problems:
        raise PlanError(problems)
    return plan


def _at(tree: Any, path: Path) -> Any:
    for step in path:
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    for step in path[:-1]:
        inner = tree.get(str(step))
        if not isinstance(inner, dict):
            inner = tree[str(step)] = {}
        tree = inner
    tree[str(path[-1])] = value
