"""Limits as the API reads and answers them."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, get_args

from pydantic import BeforeValidator, ConfigDict, Field

from gateway.admin.api.errors import ApiError
from gateway.admin.api.models import CREDITS_PATTERN, Body, Model, ModelName, Moment
from gateway.domain.limits import Limit as OwnLimit
from gateway.domain.limits import Measure, Scope, Window
from gateway.domain.money import MoneyError, format_amount, parse_amount

MAX_COUNT: Final = 999_999_999_999
LIMITS_MOST: Final = 50


Counted = Annotated[
    str, BeforeValidator(str), Field(description="Credits for `spend`, else a count.")
]


class Limit(Model):
    """A ceiling on what a scope may do in a window, or concurrently."""

    scope: Scope
    model: str | None
    measure: Measure
    window: Annotated[Window | None, Field(description="null for `concurrent`.")]
    ceiling: Annotated[str, Field(description="Credits for `spend`, else a count.")]
    rolling: bool


class LimitStanding(Model):
    """A limit and its current usage."""

    scope: Scope
    name: str | None
    measure: Measure
    window: str | None
    rolling: bool
    used: Counted
    held: Counted
    left: Counted
    ceiling: Counted
    window_end: Moment | None


_COUNT: Final = {"type": "string", "pattern": "^[0-9]{1,12}$"}
_WINDOWED: Final = {"enum": list(get_args(Window))}
_TOGETHER: Final[dict[str, Any]] = {
    "allOf": [
        {
            "anyOf": [
                {
                    "properties": {
                        "measure": {"const": "spend"},
                        "window": _WINDOWED,
                        "ceiling": {"type": "string", "pattern": CREDITS_PATTERN},
                    },
                    "required": ["window"],
                },
                {
                    "properties": {
                        "measure": {"enum": ["requests", "tokens"]},
                        "window": _WINDOWED,
                        "ceiling": _COUNT,
                    },
                    "required": ["window"],
                },
                {
                    "properties": {
                        "measure": {"const": "concurrent"},
                        "window": {"enum": [None, "total"]},
                        "ceiling": _COUNT,
                        "rolling": {"const": False},
                    },
                },
            ]
        },
        {
            "anyOf": [
                {"properties": {"rolling": {"const": False}}},
                {"properties": {"window": {"not": {"const": "total"}}}},
            ]
        },
    ]
}
"""Which fields of a limit fit together, for the API's description."""
_OF_MODEL: Final[dict[str, Any]] = {
    "anyOf": [
        {
            "properties": {"scope": {"const": "model"}, "model": {"type": "string"}},
            "required": ["scope", "model"],
        },
        {
            "properties": {
                "scope": {"enum": ["customer", "project", "key"]},
                "model": {"type": "null"},
            }
        },
    ]
}


class _LimitBody(Body):
    measure: Measure
    window: Annotated[
        Window | None, Field(description="Required, except for `concurrent`, which has none.")
    ] = None
    ceiling: Annotated[
        str,
        Field(
            pattern=r"^[0-9]{1,13}(\.[0-9]{1,9})?$",
            description='Credits for `spend` ("5.00"), else a count ("60").',
            examples=["5.00"],
        ),
    ]
    rolling: Annotated[
        bool,
        Field(
            strict=True,
            description="No period of the window's length exceeds the ceiling, wherever it starts.",
        ),
    ] = False


class OwnLimitBody(_LimitBody):
    """A limit of one project or key. It replaces one with the same measure and window that applies to
    all."""

    model_config = ConfigDict(json_schema_extra=_TOGETHER)


class LimitBody(_LimitBody):
    """A limit of a customer. It replaces one of the plan with the same scope, measure and window."""

    model_config = ConfigDict(json_schema_extra={"allOf": [*_TOGETHER["allOf"], _OF_MODEL]})

    scope: Scope = "customer"
    model: Annotated[ModelName | None, Field(description="With the scope `model`: its name.")] = (
        None
    )


def limits_of(limits: Iterable[OwnLimit]) -> list[Limit]:
    """Limits as the API answers them."""
    return [
        Limit(
            scope=each.scope,
            model=each.model,
            measure=each.measure,
            window=None if each.measure == "concurrent" else each.window,
            ceiling=format_amount(each.ceiling) if each.measure == "spend" else str(each.ceiling),
            rolling=each.rolling,
        )
        for each in limits
    ]


def read_limits(
    bodies: Sequence[LimitBody | OwnLimitBody], scope: Scope | None = None
) -> tuple[OwnLimit, ...]:
    """Limits as a client sends them. scope: of all; None for each one's own. Raises ApiError."""
    return tuple(_read(number, body, scope) for number, body in enumerate(bodies))


def _read(number: int, body: LimitBody | OwnLimitBody, scope: Scope | None) -> OwnLimit:
    def wrong(name: str, said: str) -> ApiError:
        return ApiError("parameter_invalid", f"`{name}` {said}.", param=f"limits.{number}.{name}")

    model = body.model if isinstance(body, LimitBody) else None
    of = scope or (body.scope if isinstance(body, LimitBody) else "customer")
    if (of == "model") is (model is None):
        raise wrong("model", "belongs to a limit of the scope `model`, and only to that one")
    if body.window not in (None, "total") if body.measure == "concurrent" else body.window is None:
        raise wrong("window", "is required, except for `concurrent`, which has none")
    window = body.window or "total"
    if body.rolling and window == "total":
        raise wrong("rolling", "needs a window")
    try:
        ceiling = parse_amount(body.ceiling) if body.measure == "spend" else _count(body.ceiling)
    except MoneyError as error:
        raise wrong("ceiling", f"is not usable: {error}") from error
    return OwnLimit(of, body.measure, window, ceiling, body.rolling, model)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_COUNT:
        raise MoneyError(f"{text!r} is not a whole number up to {MAX_COUNT}")
    return int(text)
