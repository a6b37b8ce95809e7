"""Header fields that every answer to a request carries, whoever gives it: handler or refusal."""

from gateway.dialects.base import Dialect
from gateway.http.cors import Cors
from gateway.http.interface import Exchange, encode_fields


def common_fields(
    exchange: Exchange, dialect: Dialect, request_id: str, cors: Cors | None
) -> bytes:
    """Anthropic's name for the request's id, which its SDKs show, and what browsers need."""
    fields = b""
    if dialect.api == "anthropic":
        fields = encode_fields((("request-id", request_id),))
    if cors is not None:
        fields += cors.fields(exchange)
    return fields
