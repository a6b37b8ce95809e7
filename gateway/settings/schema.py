"""Build the JSON Schema of a configuration file, for editors (`config/schema.json`).

Editors see the file before references are filled in, so wherever a scalar is allowed, a text with
`${` is allowed too.
"""

import json
from typing import Any, Final

from gateway.dialects import DIALECTS
from gateway.settings.root import Settings

_REFERENCE: Final = {"type": "string", "pattern": r"\$\{"}
_SCALARS: Final = frozenset({"integer", "number", "boolean"})
_NARROWED: Final = ("enum", "const", "pattern", "format")


def json_schema() -> dict[str, Any]:
    """Return the schema as plain values (JSON Schema 2020-12)."""
    schema = Settings.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    definitions["RouteSection"]["properties"]["dialect"]["enum"] = list(DIALECTS)
    redis = schema["properties"]["redis"]
    shared = {name: redis.pop(name) for name in ("description", "examples") if name in redis}
    schema["properties"]["redis"] = shared | {
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/RedisSection"}]
    }
    admitted: dict[str, Any] = _admit_references(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "creditgate configuration",
        **{key: value for key, value in admitted.items() if key != "title"},
    }


def schema_text() -> str:
    """Return the text of the schema file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _admit_references(schema: Any) -> Any:
    """Allow a reference in place of any scalar, and drop derived titles."""
    if isinstance(schema, list):
        return [_admit_references(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        section = {key: value for key, value in schema.items() if key != "title"}
        for group in ("properties", "$defs"):
            if group in section:
                parts = section[group].items()
                section[group] = {name: _admit_references(part) for name, part in parts}
        return _open_empty(section)
    inner = {
        key: value if key in ("default", "examples") else _admit_references(value)
        for key, value in schema.items()
        if key != "title" or not isinstance(schema["title"], str)
    }
    narrowed = inner.get("type") == "string" and any(key in inner for key in _NARROWED)
    if inner.get("type") in _SCALARS or narrowed:
        said = {
            key: inner.pop(key) for key in ("default", "description", "examples") if key in inner
        }
        return said | {"anyOf": [inner, _REFERENCE]}
    return inner


def _open_empty(section: dict[str, Any]) -> dict[str, Any]:
    """Allow an empty value for a section without required fields."""
    if "required" not in section:
        section["type"] = ["object", "null"]
    return section
