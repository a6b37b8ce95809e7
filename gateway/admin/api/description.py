"""What the API offers, read from its own OpenAPI document: for the page that it serves, and the reference."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

Schema = Mapping[str, Any]
_REF: Final = "#/components/schemas/"
_HIDDEN: Final = frozenset({"ErrorAnswer", "ErrorBody", "HTTPValidationError", "ValidationError"})


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a field of an object. place: path, query or header; empty for a field"""

    name: str
    type: str
    required: bool
    meaning: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. permission: what a token needs. sends, answers: names of objects"""

    method: str
    path: str
    summary: str
    permission: str
    parameters: Sequence[Field]
    sends: str | None
    answers: str


@dataclass(frozen=True, slots=True)
class Group:
    """The operations of one resource."""

    name: str
    operations: Sequence[Operation]

    @property
    def anchor(self) -> str:
        """Its place on a page."""
        return self.name.lower().replace(" ", "-")


@dataclass(frozen=True, slots=True)
class ApiObject:
    """What is sent or answered."""

    name: str
    meaning: str
    fields: Sequence[Field]


@dataclass(frozen=True, slots=True)
class Description:
    """The whole API."""

    groups: Sequence[Group]
    objects: Sequence[ApiObject]


def describe(app: FastAPI) -> Description:
    """Describe an application. Slow: some tens of milliseconds."""
    document = app.openapi()
    permissions = dict(_permissions(app))
    found: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            permission = permissions[method.upper(), path]
            made = _operation(method.upper(), path, operation, permission)
            found.setdefault(operation["tags"][0], []).append(made)
    schemas: Mapping[str, Schema] = document["components"]["schemas"]
    objects = [
        ApiObject(_title(name), _plain(schema.get("description", "")), list(_fields(schema)))
        for name, schema in sorted(schemas.items())
        if name not in _HIDDEN and not name.startswith("ListOf_") and "properties" in schema
    ]
    return Description([Group(name, made) for name, made in found.items()], objects)


def permission_of(route: APIRoute) -> str | None:
    """The operation of the role table that a route asks for; None for an open one."""
    named = [getattr(each.call, "operation", None) for each in route.dependant.dependencies]
    return next((name for name in named if name is not None), None)


def _permissions(app: FastAPI) -> Iterator[tuple[tuple[str, str], str]]:
    routers: Sequence[APIRouter] = app.state.api_routers
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                for method in route.methods or ():
                    yield (method, route.path_format), permission_of(route) or ""


def _operation(method: str, path: str, operation: Schema, permission: str) -> Operation:
    parameters = [
        Field(
            each["name"],
            _type(each["schema"]),
            each.get("required", False),
            _meaning(each["schema"], each),
            each["in"],
        )
        for each in operation.get("parameters", ())
        if each["in"] != "header"
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    success = next(answer for code, answer in operation["responses"].items() if code[0] == "2")
    answered = success.get("content", {}).get("application/json")
    return Operation(
        method,
        path,
        operation["summary"],
        permission,
        parameters,
        _type(body["schema"]) if body else None,
        _type(answered["schema"]) if answered else "a file",
    )


def _fields(schema: Schema) -> Iterator[Field]:
    required = schema.get("required", ())
    for name, each in schema["properties"].items():
        if name != "object":
            yield Field(name, _type(each), name in required, _meaning(each))


def _type(schema: Schema) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        return _title(schema["$ref"].removeprefix(_REF))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object":
        more = schema.get("additionalProperties")
        return f"map of {_type(more)}" if isinstance(more, Mapping) else "object"
    return "time" if schema.get("format") == "date-time" else str(kind)


def _meaning(schema: Schema, parameter: Schema | None = None) -> str:
    said = (parameter or {}).get("description") or schema.get("description", "")
    parts = [_plain(said)]
    bounds = [schema, *schema.get("anyOf", ())]
    default = schema.get("default")
    if default not in (None, [], (), {}, ""):
        parts.append(f"Default: {default}.")
    for each in bounds:
        if "maximum" in each:
            parts.append(f"{each.get('minimum', 0)} to {each['maximum']}.")
        if "examples" in each:
            parts.append(f"Such as `{each['examples'][0]}`.")
            break
    return " ".join(part for part in parts if part)


def _title(name: str) -> str:
    name = name.removesuffix("_")
    if name.startswith("ListOf_"):
        return f"list of {name.removeprefix('ListOf_')}"
    return name


def _plain(text: str) -> str:
    return " ".join(text.split())
