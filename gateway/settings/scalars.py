"""Read scalars of the configuration: one annotated type per kind of value.

Each type says what is wrong with a text, and what an editor's schema should know. Every scalar
arrives as text (`document.py`); ints are accepted too, for values given in code.
"""

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from gateway.domain.money import MoneyError, parse_amount, parse_rate
from gateway.flow.paths import Template
from gateway.settings.problems import Wrong

TOKENS_PER_PRICE: Final = 1_000_000

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
_MODEL = re.compile(r"[!-~]{1,256}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_WHOLE = re.compile(r"-?[0-9]{1,3}(?:_?[0-9]{1,3}){0,5}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Section(BaseModel):
    """A mapping of the configuration. An empty value is an empty mapping."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return {} if value is None else value


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        raise Wrong("must be a single value, not a mapping or a list")
    if value is None:
        raise Wrong("is empty", "Write a value, or remove the field.")
    return str(value)


def read_whole(value: Any) -> int:
    """Read an integer written in digits. Raises Wrong."""
    text = _text(value).strip()
    if not _WHOLE.fullmatch(text):
        raise Wrong(f"{text!r} is not a whole number", "Write digits only, such as 4096.")
    return int(text)


def _switch(value: Any) -> bool:
    text = _text(value).strip().lower()
    if text not in ("true", "false"):
        raise Wrong(f"{text!r} is neither true nor false", "Write true or false.")
    return text == "true"


def _share(value: Any) -> float:
    text = _text(value)
    if not re.fullmatch(r"0?\.[0-9]{1,6}|[01](\.0{1,6})?", text):
        raise Wrong(f"{text!r} is not a share between 0 and 1", "Write such as 0.5.")
    return float(text)


def _amount(value: Any) -> int:
    try:
        return parse_amount(_text(value))
    except MoneyError as error:
        raise Wrong(str(error), 'Write credits as a decimal, such as "10.00".') from error


def _rate(per: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        try:
            return parse_rate(_text(value), per=per)
        except MoneyError as error:
            said = "a million tokens" if per == TOKENS_PER_PRICE else "each"
            hint = f'Write credits for {said} as a decimal, such as "0.25".'
            raise Wrong(str(error), hint) from error

    return read


def _matching(pattern: re.Pattern[str], what: str, hint: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = _text(value)
        if not pattern.fullmatch(text):
            raise Wrong(f"{text!r} is not {what}", hint)
        return text

    return read


def _secret(value: Any) -> SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else _text(value)
    if not text:
        raise Wrong("is empty", "Write the secret as ${NAME} or ${file:path}.")
    if not text.isprintable():
        raise Wrong("has control characters in it", "Look for a stray line break in its source.")
    return SecretStr(text)


def _origin(value: Any) -> str:
    text = _text(value)
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise Wrong(f"{text!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise Wrong(
            f"{text!r} is not an http or https URL", "Write such as https://api.example.com."
        )
    if url.username is not None or url.password is not None:
        raise Wrong("has a user or password in the URL", "Put the secret under `credential`.")
    if url.query or url.fragment or not text.isascii() or any(c.isspace() for c in text):
        raise Wrong(
            f"{text!r} is not a plain base URL",
            "Remove the query (set `query` instead), fragment and spaces.",
        )
    return text.rstrip("/")


def _moment(value: Any) -> int:
    text = _text(value)
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise Wrong(f"{text!r} is not a date", "Write 2027-01-31T00:00:00Z.") from error
    if moment.tzinfo is None:
        raise Wrong(f"{text!r} has no time zone", "Write 2027-01-31T00:00:00Z.")
    if moment.year < 1971:  # pragma: no mutate - any bound after the epoch would do
        raise Wrong(f"{text!r} is outside the supported range of dates")
    return int(moment.timestamp() * 1000)


def _sha256(value: Any) -> str:
    text = _text(value)
    if not _SHA256.fullmatch(text):
        # The text is not shown: people paste the key itself here.
        raise Wrong(
            "is not a SHA-256 in hex (64 digits)",
            "Create it with `creditgate key create`, or: printf %s KEY | sha256sum.",
        )
    return text.lower()


def _input_file(value: Any, info: ValidationInfo) -> Path:
    path = Path(_text(value))
    if info.context:
        path = info.context["folder"] / path
    if not path.is_file():
        raise Wrong(
            f"there is no file {_text(value)!r}", "Paths are relative to the configuration file."
        )
    return path


def _route_path(value: Any) -> str:
    text = _text(value)
    try:
        Template(text)
    except ValueError as error:
        raise Wrong(
            f"{text!r} is not a plain path",
            "Start with / and write it as callers send it: no query, no %, no //, no dot "
            "segments; {name} or {name}:suffix matches one segment.",
        ) from error
    return text


@dataclass(frozen=True, slots=True)
class Whole:
    """Annotation of an integer between two bounds, both included."""

    least: int
    most: int

    def __call__(self, value: Any) -> int:
        """Read an integer. Raises Wrong."""
        number = read_whole(value)
        if not self.least <= number <= self.most:
            raise Wrong(f"{number} is outside {self.least} … {self.most}")
        return number

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


DECIMAL_SCHEMA: Final = {
    "anyOf": [{"type": "string", "pattern": r"^\d{1,16}(\.\d{1,15})?$"}, {"type": "number"}]
}

Text = Annotated[str, BeforeValidator(_text)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Share = Annotated[
    float,
    BeforeValidator(_share),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
]
Amount = Annotated[int, BeforeValidator(_amount), WithJsonSchema(DECIMAL_SCHEMA)]
"""Credits as a decimal; stored as nano-credits."""
TokenRate = Annotated[int, BeforeValidator(_rate(TOKENS_PER_PRICE)), WithJsonSchema(DECIMAL_SCHEMA)]
"""Credits per million tokens; stored as pico-credits per token."""
UnitRate = Annotated[int, BeforeValidator(_rate(1)), WithJsonSchema(DECIMAL_SCHEMA)]
"""Credits per unit; stored as pico-credits."""
Secret = Annotated[
    SecretStr, BeforeValidator(_secret), WithJsonSchema({"type": "string", "minLength": 1})
]
BaseUrl = Annotated[str, BeforeValidator(_origin)]
MomentMs = Annotated[
    int, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
"""ISO 8601 with a time zone; stored as Unix milliseconds."""
Sha256 = Annotated[
    str,
    BeforeValidator(_sha256),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}),
]
InputFile = Annotated[Path, BeforeValidator(_input_file), WithJsonSchema({"type": "string"})]
"""A file that the gate reads; relative to the configuration file, and it must exist."""
Id = Annotated[
    str,
    BeforeValidator(
        _matching(
            _ID,
            "a name that can be used here",
            "Use letters, digits and . _ @ - (at most 128, a letter or digit first).",
        )
    ),
]
ModelName = Annotated[
    str,
    BeforeValidator(
        _matching(_MODEL, "a model's name", "Use printable ASCII without spaces, at most 256.")
    ),
]
HeaderName = Annotated[
    str,
    BeforeValidator(
        _matching(_HEADER, "a header's name", "Use letters, digits and hyphens, such as x-team.")
    ),
    AfterValidator(str.lower),
]
RoutePath = Annotated[str, BeforeValidator(_route_path)]
Milliseconds = Annotated[int, Whole(1, 86_400_000)]
Port = Annotated[int, Whole(0, 65_535)]
Tokens = Annotated[int, Whole(1, 100_000_000)]


def field(
    description: str,
    example: Any,
    default: Any = ...,
    *,
    alias: str | None = None,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """Declare a field with its description and example for the reference page and the editor's
    schema."""
    if factory is not None:
        return Field(
            description=description, examples=[example], default_factory=factory, alias=alias
        )
    return Field(default, description=description, examples=[example], alias=alias)
