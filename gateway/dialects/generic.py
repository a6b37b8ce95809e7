"""Any endpoint that the operator serves for free: bytes through, nothing read, nothing counted."""

from typing import Final

from gateway.dialects.base import (
    AnswerFacts,
    ForwardOptions,
    Limit,
    Meter,
    ReadOptions,
    RequestFacts,
)
from gateway.dialects.openai.answers import OpenAIDialect

_BODY: Final = "body"


class Generic(OpenAIDialect):
    """Free passthrough. Refusals have OpenAI's shape. The document holds the raw body."""

    name = "generic"

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:  # noqa: ARG002
        """Facts of a request that costs nothing; the body is not looked at."""
        return RequestFacts(
            model="",
            stream=False,
            input_bound=0,
            output_bound=0,
            choices=0,
            document={_BODY: body},
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:  # noqa: ARG002
        """The client's own bytes: nothing in them was priced."""
        body = facts.document[_BODY]
        assert type(body) is bytes, "facts of another dialect"
        return body

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:  # noqa: ARG002
        """A meter that finds nothing."""
        return NothingMeter()


class NothingMeter(Meter):
    """Passes all, notes nothing. What is free has used nothing: an empty, final report."""

    def __init__(self) -> None:
        self.facts = AnswerFacts(
            usage={}, usage_final=True, input_reported=True, output_reported=True
        )

    def feed(self, data: bytes, limit: Limit | None = None) -> bytes:  # noqa: ARG002 - all is held
        """All bytes pass."""
        return data

    def finish(self, *, broken: bool = False) -> bytes:  # noqa: ARG002
        """Nothing was held back."""
        return b""
