"""The reference page is made from the code, and the file is what was made."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from gateway.settings.explaining import inside, sections_in
from gateway.settings.policy import PRESETS, Knobs
from gateway.settings.reference import named_fields, reference_text
from gateway.settings.root import Settings
from loadtest.certificates import write_certificates

ROOT = Path(__file__).parents[3]


def every_field(
    section: type[BaseModel] = Settings, path: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in named_fields(section):
        yield f"{path}{name}", info
        below: Any = info.annotation
        while below is not None:
            for inner in sections_in(below):
                yield from every_field(inner, f"{path}{name}.")
            below = inside(below)


def test_the_page_is_what_the_code_says() -> None:
    told = "run `creditgate schema --reference > docs/reference/configuration.md`"
    assert (ROOT / "docs" / "reference" / "configuration.md").read_text() == reference_text(), told


def test_every_field_stands_on_the_page_with_its_meaning() -> None:
    page = reference_text()
    fields = dict(every_field())
    assert len(fields) > 100
    for path, info in fields.items():
        assert f"| `{path.rpartition('.')[2]}` |" in page, path
        assert info.description, path


@pytest.mark.parametrize(("path", "info"), list(every_field()))
def test_every_example_is_one(path: str, info: FieldInfo, tmp_path: Path) -> None:
    """Each example is taken by its field, as text, the way the loader hands it over."""
    assert info.examples, path
    if "tls" in path:
        (tmp_path / "tls").mkdir()
        _, cert, key = write_certificates(tmp_path / "tls")
        cert.rename(cert.with_name("gate.pem"))
        key.rename(key.with_name("gate.key"))
    kind: Any = info.annotation
    if info.metadata:
        kind = Annotated[kind, *info.metadata]
    TypeAdapter(kind).validate_python(as_text(info.examples[0]), context={"folder": tmp_path})


def as_text(value: Any) -> Any:
    """The value as the document has it: scalars are text."""
    if isinstance(value, dict):
        return {name: as_text(part) for name, part in value.items()}
    if isinstance(value, list):
        return [as_text(part) for part in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_page_shows_every_knob_of_every_preset() -> None:
    page = reference_text()
    assert f"| knob | {' | '.join(PRESETS)} |" in page
    for knob in fields(Knobs):
        (row,) = re.findall(rf"^\| `{knob.name}` \| ([^`]*) \|$", page, re.MULTILINE)
        assert len(row.split(" | ")) == len(PRESETS), knob.name
