"""Header fields that every answer to a request carries, whoever gives it: handler or refusal."""

from gateway.dialects.base import Dialect
from gateway.http.cors import Cors
from gateway.http.interface import Exchange

NOTHING: tuple[tuple[str, str], ...] = ()


def common_fields(
    exchange: Exchange, dialect: Dialect, request_id: str, cors: Cors | None
) -> tuple[tuple[str, str], ...]:
    """Anthropic's name for the request's id, which its SDKs show, and what browsers need."""
    fields = NOTHING
    if dialect.api == "anthropic":
        fields = (("request-id", request_id),)
    if cors is not None:
        fields += cors.fields(exchange)
    return fields
