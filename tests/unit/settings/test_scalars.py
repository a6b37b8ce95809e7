"""How each kind of value is read."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.settings import scalars

GOOD: list[tuple[Any, str, Any]] = [
    (scalars.Amount, "10.00", 10_000_000_000),
    (scalars.Amount, "0.000000001", 1),
    (scalars.TokenRate, "3.00", 3_000_000),
    (scalars.TokenRate, "0.000001", 1),
    (scalars.UnitRate, "0.01", 10_000_000_000),
    (scalars.Switch, "true", True),
    (scalars.Switch, "False", False),
    (scalars.Share, "0.5", 0.5),
    (scalars.Share, "1", 1.0),
    (scalars.Tokens, "4_096", 4096),
    (scalars.MomentMs, "1971-01-02T00:00:00Z", 366 * 86_400_000),
    (scalars.MomentMs, "1971-01-02T02:00:00+02:00", 366 * 86_400_000),
    (scalars.Sha256, "AB" * 32, "ab" * 32),
    (scalars.BaseUrl, "http://[::1]:8000/api/", "http://[::1]:8000/api"),
    (scalars.HeaderName, "X-Team", "x-team"),
    (scalars.ModelName, "meta-llama/Llama-3.1:8b", "meta-llama/Llama-3.1:8b"),
    (scalars.RoutePath, "/v1/a.b/c", "/v1/a.b/c"),
]

BAD: list[tuple[Any, str]] = [
    (scalars.Amount, "-1"),
    (scalars.Amount, "nan"),
    (scalars.Amount, "1e3"),
    (scalars.Amount, "9000001"),
    (scalars.TokenRate, "0.0000001"),
    (scalars.UnitRate, "1001"),
    (scalars.Switch, "yes"),
    (scalars.Share, "1.1"),
    (scalars.Share, "-0.1"),
    (scalars.Tokens, "0"),
    (scalars.Tokens, "1.0"),
    (scalars.Tokens, "0x10"),
    (scalars.Tokens, "٣"),
    (scalars.Tokens, "1_0_"),
    (scalars.Port, "65536"),
    (scalars.Port, "-1"),
    (scalars.MomentMs, "tomorrow"),
    (scalars.MomentMs, "2027-01-01"),
    (scalars.MomentMs, "1969-01-01T00:00:00Z"),
    (scalars.Sha256, "ab" * 31),
    (scalars.BaseUrl, "ftp://host"),
    (scalars.BaseUrl, "http://"),
    (scalars.BaseUrl, "http://host:0"),
    (scalars.BaseUrl, "http://host:x"),
    (scalars.BaseUrl, "http://host/a?b=c"),
    (scalars.BaseUrl, "http://host/a b"),
    (scalars.BaseUrl, "http://user@host"),
    (scalars.HeaderName, "x:y"),
    (scalars.HeaderName, "x\r\ny"),
    (scalars.Id, ".hidden"),
    (scalars.Id, "a:b"),
    (scalars.Id, "a" * 129),
    (scalars.Id, "a\n"),
    (scalars.ModelName, "two words"),
    (scalars.RoutePath, "v1"),
    (scalars.RoutePath, "/"),
    (scalars.RoutePath, "/v1/../admin"),
    (scalars.RoutePath, "/v1/."),
    (scalars.RoutePath, "/v1/"),
    (scalars.RoutePath, "/v1/%63hat"),
    (scalars.Secret, ""),
    (scalars.Secret, "a\r\nb"),
]


@pytest.mark.parametrize(("kind", "text", "value"), GOOD)
def test_is_read_exactly(kind: Any, text: str, value: Any) -> None:
    assert TypeAdapter(kind).validate_python(text) == value


@pytest.mark.parametrize(("kind", "text"), BAD)
def test_is_refused(kind: Any, text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(text)


@pytest.mark.parametrize("value", [None, [], {}])
@pytest.mark.parametrize(
    "kind",
    [scalars.Amount, scalars.Switch, scalars.Tokens, scalars.Text, scalars.Secret, scalars.Id],
)
def test_nothing_and_containers_are_no_scalar(kind: Any, value: Any) -> None:
    with pytest.raises(ValidationError, match=r"is empty|single value"):
        TypeAdapter(kind).validate_python(value)


def test_a_key_pasted_for_its_hash_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(scalars.Sha256).validate_python("sk-real-key")
    assert "sk-real-key" not in caught.value.errors()[0]["msg"]
