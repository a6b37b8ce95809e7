"""The reference page of the configuration, docs/reference/configuration.md, made from the sections.

A section's docstring, a field's description, default and example are the page's only sources.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.dialects import DIALECTS
from gateway.domain.money import format_amount
from gateway.settings import scalars
from gateway.settings.explaining import inside, sections_in
from gateway.settings.policy import PRESETS, UNSTATED, Knobs
from gateway.settings.prices import Markup, TokenPrice, UnitPrice
from gateway.settings.root import Settings, default_routes

_INTRODUCTION: Final = """\
# Configuration

<!-- Made by `creditgate schema --reference`. Change the sources in gateway/settings instead. -->

One YAML file says everything: `creditgate check FILE` reads it as a whole and tells every mistake
at once, with file, line and column. Unknown fields are mistakes. Samples lie in `config/`:
`gateway.yaml` for OpenAI and Anthropic, `dev.yaml` (`creditgate dev`), `demo.yaml` (`make demo`),
and one for each way to sell: `prepaid.yaml`, `subscription.yaml`, `tiers.yaml`, `reseller.yaml`.
`teams.yaml` has budgets and limits for a company's own teams, `rest.yaml` serves an API that has
nothing to do with models.
Editors complete and check the file by `config/schema.json`, which the first line of the samples
names.

## How values are written

- `${NAME}` is an environment variable, `${NAME:-default}` one with a default (for unset and for
  empty), `${file:path}` a file's text without its last line break. They may stand in any value, not
  in names; inside `{ }` and `[ ]` they need quotes. `$${` is a literal `${`. What is filled in is
  never shown in a message.
- Paths of files that the gate reads are relative to the configuration file; `data_dir` is relative
  to the working directory.
- Amounts and prices are decimals of credits, `"10.00"`. They are exact: an amount has at most nine
  decimals, a price is exact in pico-credits (10⁻¹²) per token, or it is refused.
- Names of fields end in their unit: `_ms`, `_bytes`, `_tokens`.
- A key stands once per mapping; anchors, aliases and `<<` work.
- A running gate takes over a changed configuration on SIGHUP, and when a file that was read
  changes: whole, or not at all.
"""


CLASS_PRICES: Final = (TokenPrice | None, UnitPrice | None)
"""Types of the fields that price one class each: their sections are told once for all."""


def reference_text() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, "## The file\n", *_section(Settings)]
    for paths, section in _places().items():
        parts += [f"### {', '.join(f'`{path}`' for path in paths)}\n", *_section(section)]
    return "\n".join([*parts, _presets(), _tables()]).rstrip() + "\n"


def named_fields(section: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """A section's fields by the names they have in the file."""
    for name, info in section.model_fields.items():
        yield info.alias or name, info


def _places() -> dict[tuple[str, ...], type[BaseModel]]:
    """Every section with the paths at which it may stand, in the order of the file."""
    found: dict[type[BaseModel], tuple[type[BaseModel], list[str]]] = {}

    def walk(path: str, annotation: Any) -> None:
        for section in sections_in(annotation):
            family = section.__mro__[section.__mro__.index(scalars.Section) - 1]
            # Sections of one family differ in how they are read, not in what they are.
            paths = found.setdefault(family, (section, []))[1]
            if path not in paths:
                paths.append(path)
            for name, info in named_fields(section):
                step = "CLASS" if info.annotation in CLASS_PRICES else name
                if name != "service_tiers":  # a price is told once, whatever the tier
                    walk(f"{path}.{step}", info.annotation)
        items = inside(annotation)
        if items is not None:
            walk(f"{path}[]" if _origin(annotation) is tuple else f"{path}.NAME", items)

    for name, info in named_fields(Settings):
        walk(name, info.annotation)
    return {tuple(paths): section for section, paths in found.values()}


def _section(section: type[BaseModel]) -> Iterator[str]:
    yield _flowing(section.__doc__ or "") + "\n"
    yield "| field | value | default | meaning |\n|---|---|---|---|"
    for name, info in named_fields(section):
        yield _row(name, info)
    yield ""


def _row(name: str, info: FieldInfo) -> str:
    example = _flow((info.examples or [""])[0])
    meaning = f"{_flowing(info.description or '')} Example: `{example}`".replace("|", "\\|")
    return f"| `{name}` | {_value(info)} | {_default(info)} | {meaning} |"


def _value(info: FieldInfo) -> str:
    """What may be written, in a few words."""
    annotation: Any = info.annotation
    if info.metadata:
        annotation = Annotated[annotation, *info.metadata]
    return _words(annotation)


def _words(annotation: Any) -> str:
    for named, words in _KINDS:
        if annotation == named:
            return words
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = next((part for part in parts if isinstance(part, scalars.Whole)), None)
        return f"{bounds.least} … {bounds.most}" if bounds else _words(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if _origin(annotation) is tuple:
        return f"list of {_words(inside(annotation))}"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return f"name: {_words(parts[1])}"
    if origin is Union or parts:
        return ", ".join(_words(part) for part in parts if part is not type(None))
    if sections_in(annotation):
        return "section"
    return "text"


def _origin(annotation: Any) -> Any:
    """The container of a type, through optional and annotated types."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _origin(parts[0])
    if type(None) in parts:
        return next(_origin(part) for part in parts if part is not type(None))
    return origin


_KINDS: Final = (
    (scalars.Amount, "credits"),
    (scalars.TokenRate, "credits per million"),
    (scalars.UnitRate, "credits for one"),
    (TokenPrice, "credits per million, or a section"),
    (UnitPrice, "credits for one, or a section"),
    (Markup, "factor"),
    (scalars.Secret, "secret"),
    (scalars.BaseUrl, "URL"),
    (scalars.MomentMs, "date and time"),
    (scalars.Sha256, "64 hex digits"),
    (scalars.InputFile, "file"),
    (scalars.Switch, "`true`, `false`"),
    (scalars.Share, "0 … 1"),
    (scalars.Id, "name"),
    (scalars.HeaderName, "header"),
)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    if info.default_factory is not None:
        return "see below" if info.annotation is not None and sections_in(info.annotation) else "–"
    default = info.default
    if default is None or default == ():
        return "–"
    if info.alias == "credit_limit":
        return f"`{format_amount(default)}`"
    return f"`{_flow(str(default) if not isinstance(default, int | tuple) else default)}`"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(part) for part in value) + "]"
    if isinstance(value, str) and value.replace(".", "").isdecimal():
        return json.dumps(value)
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


_ABSENT: Final = {
    "default_max_output_tokens": "the model's maximum",
    "media_tokens": "none stated",
    "reference_tokens": "none stated",
}
"""What a knob that is not set means, where a preset does not set it."""


def _presets() -> str:
    lines = [
        "## Presets\n",
        "A preset is nothing but these values; any of them may be overridden in `policy`, or in a "
        "route's `policy`.\n",
        f"| knob | {' | '.join(PRESETS)} |\n|---|{'---|' * len(PRESETS)}",
    ]
    for knob in fields(Knobs):
        values = (getattr(preset, knob.name) for preset in PRESETS.values())
        absent = _ABSENT.get(knob.name, "–")
        shown = " | ".join(absent if v in (None, UNSTATED) else _flow(v) for v in values)
        lines.append(f"| `{knob.name}` | {shown} |")
    lines.append(
        "\nWith `reserve_max` a stream holds its whole bound, whatever `hold_output_tokens` says.\n"
    )
    return "\n".join(lines)


def _tables() -> str:
    lines = [
        "## Default routes\n",
        "Allowed when the file has no `routes`. `GET /v1/models` and `GET /v1/credits` are the "
        "gate's own.\n",
        "| name | methods | path | dialect | |\n|---|---|---|---|---|",
    ]
    for name, route in default_routes().items():
        free = "free" if route.free else "priced"
        methods = ", ".join(route.methods)
        lines.append(f"| `{name}` | {methods} | `{route.path}` | `{route.dialect}` | {free} |")
    lines += ["\n## Dialects\n", ", ".join(f"`{name}`" for name in DIALECTS) + ".\n"]
    return "\n".join(lines)


def _flowing(text: str) -> str:
    """A docstring as one paragraph for each of its own."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))
