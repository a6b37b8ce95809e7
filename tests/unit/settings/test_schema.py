"""The JSON Schema for editors: it takes what the loader takes."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.settings.schema import json_schema, schema_text

CONFIG = Path(__file__).parents[3] / "config"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def errors_of(text: str) -> list[str]:
    return [error.json_path for error in VALIDATOR.iter_errors(yaml.load(text, _Editor))]


class _Editor(yaml.SafeLoader):
    """Reads YAML as editors do: core types, but dates stay text."""


_Editor.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def test_the_file_beside_the_samples_is_this_schema() -> None:
    assert (CONFIG / "schema.json").read_text() == schema_text(), (
        "run `creditgate schema > config/schema.json`"
    )


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", ["gateway", "dev", "demo"])
def test_the_samples_are_right_by_it_before_references_are_filled_in(name: str) -> None:
    assert errors_of((CONFIG / f"{name}.yaml").read_text()) == []


@pytest.mark.parametrize(
    "text",
    ["redis: embedded", "redis: 'redis://h'", "redis: {shards: 8}", "listen:", "customers: {a: }"],
)
def test_short_and_empty_forms_are_right(text: str) -> None:
    start = "upstreams: {}\nmodels: {}\n"
    assert errors_of(start + text) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("listen: {port: many}", "$.listen.port"),
        ("listen: {prot: 1}", "$.listen"),
        ("policy: {preset: strickt}", "$.policy.preset"),
        ("routes: {a: {path: /a, dialect: latin}}", "$.routes.a.dialect"),
        ("customers: {a: {keys: [{sha256: xyz}]}}", "$.customers.a.keys[0].sha256"),
    ],
)
def test_mistakes_show_while_typing(text: str, where: str) -> None:
    assert errors_of("upstreams: {}\nmodels: {}\n" + text) == [where]


def test_every_field_says_what_it_is_and_gives_an_example() -> None:
    def walk(schema: dict[str, Any]) -> None:
        for name, part in schema.get("properties", {}).items():
            assert part.get("description"), name
            assert part.get("examples"), name

    schema = json_schema()
    for section in (schema, *schema["$defs"].values()):
        walk(section)
