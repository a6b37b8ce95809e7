"""Our own form of reports, for systems that are not Stripe: docs/how-to/payments.md.

{"type": "payment.paid", "payment_id": "…", "customer_id": "acme", "credits": "20.00"}
{"type": "payment.refunded", "payment_id": "…", "refund_id": "…", "credits": "5.00"}
{"type": "payment.dispute_opened", "payment_id": "…", "dispute_id": "…", "credits": "20.00"}
{"type": "payment.dispute_closed", "payment_id": "…", "dispute_id": "…", "credits": "20.00", "outcome": "won"}
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from gateway.admin.api.models import PositiveAmount
from gateway.admin.webhooks.reading import Malformed
from gateway.domain.payments import CREDITS, Dispute, Money, Named, Refund, Seen

GivenId = Annotated[str, StringConstraints(pattern=r"^[!-.0-~]{1,128}$")]


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    payment_id: GivenId
    credits: PositiveAmount
    livemode: Annotated[bool, Field(strict=True)] = True


class _ExternalId(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    system: GivenId
    id: GivenId


class _Paid(_Report):
    type: Literal["payment.paid"]
    customer_id: GivenId | None = None
    external_id: _ExternalId | None = None

    def seen(self, source: str) -> Seen:
        named = []
        if self.customer_id is not None:
            named.append(Named(self.customer_id))
        if self.external_id is not None:
            named.append(Named(self.external_id.id, self.external_id.system))
        paid = Money(self.credits, CREDITS)
        return Seen(source, self.payment_id, self.livemode, tuple(named), paid)


class _Refunded(_Report):
    type: Literal["payment.refunded", "payment.refund_failed"]
    refund_id: GivenId

    def seen(self, source: str) -> Seen:
        refund = Refund(self.credits, failed=self.type == "payment.refund_failed")
        return Seen(source, self.payment_id, self.livemode, refunds={self.refund_id: refund})


class _DisputeOpened(_Report):
    type: Literal["payment.dispute_opened"]
    dispute_id: GivenId

    def seen(self, source: str) -> Seen:
        disputes = {self.dispute_id: Dispute(self.credits, "open")}
        return Seen(source, self.payment_id, self.livemode, disputes=disputes)


class _DisputeClosed(_Report):
    type: Literal["payment.dispute_closed"]
    dispute_id: GivenId
    outcome: Literal["won", "lost"]

    def seen(self, source: str) -> Seen:
        disputes = {self.dispute_id: Dispute(self.credits, self.outcome)}
        return Seen(source, self.payment_id, self.livemode, disputes=disputes)


_ANY: TypeAdapter[_Paid | _Refunded | _DisputeOpened | _DisputeClosed] = TypeAdapter(
    Annotated[_Paid | _Refunded | _DisputeOpened | _DisputeClosed, Field(discriminator="type")]
)


def report_of(source: str, body: Mapping[str, Any]) -> Seen:
    """The report. Raises Malformed."""
    try:
        return _ANY.validate_python(body).seen(source)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        kinds = ("payment.", "type")  # the discriminator is no part of the field's name
        place = [str(part) for part in first["loc"] if not str(part).startswith(kinds)]
        raise Malformed(f"{'.'.join(place) or 'the body'}: {first['msg']}") from error
