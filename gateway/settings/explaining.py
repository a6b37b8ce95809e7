"""Turn pydantic's errors into a plain sentence and a hint.

Validators of ours raise `Wrong`, which carries both. What pydantic itself finds (unknown and
missing fields, wrong shapes, invalid choices) gets its wording here.
"""

import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gateway.domain.suggestions import suggest
from gateway.settings.prices import DECIMAL_TAG, SHAPE_TAG
from gateway.settings.problems import Finding, Path, Wrong

PYDANTICS_STEPS: Final = frozenset({"[key]", SHAPE_TAG, DECIMAL_TAG})

_SHAPES = {
    "model_type": ("must be a mapping of fields", "Write `name: value` lines under it."),
    "model_attributes_type": ("must be a mapping of fields", "Write `name: value` lines under it."),
    "dict_type": ("must be a mapping of names", "Write `name: value` lines under it."),
    "mapping_type": ("must be a mapping of names", "Write `name: value` lines under it."),
    "tuple_type": ("must be a list", "Write `- item` lines under it, or [item, item]."),
}


_MOVED: Final[Mapping[Path, str]] = {
    ("store",): "Name the store under `export.sinks`, and in `export.required`.",
}
"""Fields of earlier releases: where they are now."""


def explain(error: ErrorDetails, root: type[BaseModel]) -> Finding:
    """Convert one of pydantic's errors to a finding."""
    path: Path = tuple(step for step in error["loc"] if not _is_pydantics(step))
    kind, context = error["type"], error.get("ctx", {})
    wrong = context.get("error")
    if isinstance(wrong, Wrong):
        return Finding((*path, wrong.at) if wrong.at else path, wrong.message, wrong.hint)
    if kind in ("missing", "extra_forbidden"):
        fields = fields_at(root, path[:-1])
        name = str(path[-1])
        if kind == "extra_forbidden":
            hint = _MOVED.get(path) or suggest(name, fields)
            return Finding(path, "is not a known field", hint)
        return Finding(path, "is missing", _for_example(name, fields[name].examples))
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        hint = suggest(str(error["input"]), choices)
        return Finding(path, f"{error['input']!r} is not one of {', '.join(choices)}", hint)
    if kind in _SHAPES:
        return Finding(path, *_SHAPES[kind])
    return Finding(path, error["msg"][0].lower() + error["msg"][1:])


def _is_pydantics(step: str | int) -> bool:
    """Say whether pydantic added a step to a path: a key's mark, or the chosen member of a union."""
    return isinstance(step, str) and step in PYDANTICS_STEPS


def fields_at(root: type[BaseModel], path: Path) -> dict[str, FieldInfo]:
    """Return the fields that are allowed under a path, by their names in the file; {} if there
    are none."""
    here: Any = root
    for step in path:
        fields = _fields(here)
        here = fields[str(step)].annotation if step in fields else inside(here)
    return _fields(here)


def _fields(annotation: Any) -> dict[str, FieldInfo]:
    sections = sections_in(annotation)
    if not sections:
        return {}
    return {info.alias or name: info for name, info in sections[0].model_fields.items()}


def _for_example(name: str, examples: list[Any] | None) -> str:
    example = (examples or [""])[0]
    return f"For example: `{name}: {example}`." if isinstance(example, str | int) else ""


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Yield the sections in a field's type, through optional and annotated types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = get_origin(annotation)
    if origin is Annotated:
        return sections_in(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [found for part in get_args(annotation) for found in sections_in(part)]
    return []


def inside(annotation: Any) -> Any:
    """Return the type of a list's items or a mapping's values, else None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return inside(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return next((found for part in get_args(annotation) if (found := inside(part))), None)
    if origin is tuple:
        return get_args(annotation)[0]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return get_args(annotation)[1]
    return None
