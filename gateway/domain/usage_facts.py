"""What the gate says about a request on its usage event.

An event joins two parts: these facts, which the gate knows, and the stamp, which the ledger writes
in the same step that moves the balance (`gateway/domain/events.py`). Facts travel as one flat
msgpack map; `gateway/ledger/codec/usage_facts.py` packs it, and `docs/reference/events.md` publishes
its JSON Schema, generated from these classes.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Final, Literal

from gateway.domain.usage import UsageSource


@dataclass(frozen=True, slots=True)
class RequestLabels:
    """What all requests of one key for one model at one route have in common: compiled once.

    upstream:      the configured name of the upstream
    price_version: the immutable id of the price that was frozen when credit was reserved
    unit:          what amounts are counted in
    tags:          the operator's own labels, of the customer and of the key
    """

    customer_id: str
    project_id: str | None
    key_id: str
    route: str
    model: str
    upstream: str
    price_version: str
    livemode: bool
    tags: Mapping[str, str] = field(default_factory=dict)
    mode: str = "enforce"
    unit: Literal["credit"] = "credit"


@dataclass(slots=True)
class UsageFacts:
    """What is particular to one request. The flow fills it in as it learns.

    retry_of:              an earlier request that was charged, and that this one repeats
    upstream_request_id:   the provider's id of the request
    response_model:        the model that the response names
    service_tier:          the tier whose price is charged; left out where the model has one price
    response_service_tier: the tier that the response names, where it is another one
    upstream_error:        what failed at the upstream (dns, refused, tls, timeout, reset, …); left
                           out when nothing did
    http_status:           the upstream's; None when its response head has not arrived
    duration_ms:           from the request's head to the end of its response
    usage_source:          where the charged quantities come from; None when nothing was charged
    flags:                 what was odd, such as usage_missing, usage_absurd, client_gone
    """

    request_id: str
    retry_of: str | None = None
    upstream_request_id: str | None = None
    service_tier: str | None = None
    response_service_tier: str | None = None
    upstream_error: str | None = None
    # Known at the end alone: not set before it.
    response_model: str | None = field(init=False)
    http_status: int | None = field(init=False)
    finish_reason: str | None = field(init=False)
    duration_ms: int = field(init=False)
    usage_source: UsageSource | None = field(init=False)
    flags: list[str] = field(init=False)


OMITTED_WHEN_NONE: Final = ("service_tier", "response_service_tier", "upstream_error")
"""Facts that are left out of the map, rather than null, where they say nothing."""

FACT_FIELDS: Final = tuple(
    each.name for part in (RequestLabels, UsageFacts) for each in fields(part)
)
"""The names of all facts."""


def is_required(fact: "Field[object]") -> bool:
    """Whether every event that ends a request has this fact."""
    return fact.default is MISSING or fact.name not in OMITTED_WHEN_NONE
