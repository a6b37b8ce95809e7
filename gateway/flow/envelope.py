"""Header fields that every response to a request carries, whoever gives it: handler or refusal."""

from gateway.dialects.base import Dialect


def common_fields(dialect: Dialect, request_id: str) -> bytes:
    """Anthropic's name for the request's id, which its SDKs show."""
    return b"request-id: %b\r\n" % request_id.encode() if dialect.api == "anthropic" else b""
