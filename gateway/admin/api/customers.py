"""Customers: creating, changing, suspending and deleting them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Path, Query
from pydantic import Field, StringConstraints

from gateway.admin.api.keys import Key, keys_of
from gateway.admin.api.limit_models import (
    LIMITS_MOST,
    Limit,
    LimitBody,
    OwnLimitBody,
    limits_of,
    read_limits,
)
from gateway.admin.api.models import (
    NUMBER,
    Amount,
    Body,
    CreditLimit,
    Line,
    ListOf,
    Model,
    Moment,
    Paging,
    ProjectId,
    Reason,
    RecordId,
)
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.api.wallets import Wallet, read_wallet
from gateway.admin.auth.guard import Session, require
from gateway.operations import customer_changes
from gateway.operations.backend import Backend
from gateway.operations.customer_changes import CustomerChange, NewCustomer
from gateway.operations.customers import (
    CustomerView,
    customer_document,
    get_customer,
    list_customers,
)

router = api_router("Customers")

ENTRIES_MOST: Final = 50
Label = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]+$")]
System = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
ONLY_NAMED: Final[dict[str, Any]] = {"additionalProperties": False}
"""In a description: no name but those of the pattern."""
Labels = Annotated[
    Mapping[Label, Label],
    Field(
        max_length=ENTRIES_MOST,
        json_schema_extra={**ONLY_NAMED, "propertyNames": {"minLength": 1, "maxLength": 256}},
    ),
]
ExternalIds = Annotated[
    Mapping[System, Label],
    Field(
        max_length=ENTRIES_MOST,
        description="Ids in other systems, each unique among all customers.",
        examples=[{"stripe": "cus_4QFOjPSdJz8mZx"}],
        json_schema_extra=ONLY_NAMED,
    ),
]
Expandable = Literal["wallet", "keys"]
Expand = Annotated[
    tuple[Expandable, ...],
    Field(alias="expand[]", description="Related objects to include.", max_length=2),
]


class Customer(Model):
    """A billed party. What is null is the plan's."""

    object: Literal["customer"] = "customer"
    id: Annotated[str, Field(examples=["acme"])]
    status: Literal["active", "suspended", "deleted"]
    kept_in: Annotated[
        Literal["configuration", "ledger"],
        Field(description="One of the configuration is read-only here, except for its money."),
    ]
    plan: str | None
    name: str | None
    email: str | None
    external_ids: Mapping[str, str]
    tags: Mapping[str, str]
    credit_limit: Amount | None
    billing_day: int | None
    models: list[str] | None
    limits: Annotated[list[Limit], Field(description="Its own, in addition to the plan's.")]
    projects: Annotated[list[str], Field(description="Ids of its projects.")]
    prices: Annotated[
        Mapping[str, str], Field(description="Model → version of the customer's own price.")
    ]
    balance: Amount | None
    available: Amount | None
    held: Amount | None
    frozen: bool
    created_at: Annotated[Moment | None, Field(description="null for one of the configuration.")]
    wallet: Annotated[Wallet | None, Field(description="If expanded.")] = None
    keys: Annotated[list[Key] | None, Field(description="If expanded.")] = None


class _Fields(Body):
    plan: Label | None = None
    name: Label | None = None
    email: Label | None = None
    external_ids: ExternalIds = Field(default_factory=dict)
    tags: Labels = Field(default_factory=dict)
    credit_limit: CreditLimit | None = None
    billing_day: Annotated[int, Field(ge=1, le=31), NUMBER] | None = None
    models: Annotated[tuple[Label, ...], Field(max_length=1000)] | None = None
    limits: Annotated[tuple[LimitBody, ...], Field(max_length=LIMITS_MOST)] = ()
    projects: Annotated[
        Mapping[ProjectId, tuple[OwnLimitBody, ...]],
        Field(
            max_length=ENTRIES_MOST,
            description="Project → its limits.",
            json_schema_extra=ONLY_NAMED,
        ),
    ] = Field(default_factory=dict)
    reason: Reason | None = None

    def given(self) -> dict[str, Any]:
        """The fields that were sent, as the operations take them. Raises ApiError."""
        read: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
            "credit_limit": ("credit_limit_nano", lambda nano: nano),
            "models": ("models", lambda names: None if names is None else frozenset(names)),
            "limits": ("limits", read_limits),
            "projects": (
                "projects",
                lambda each: {name: read_limits(some, "project") for name, some in each.items()},
            ),
        }
        given = {}
        for name in self.model_fields_set - {"id", "reason"}:
            field, convert = read.get(name, (name, lambda value: value))
            given[field] = convert(getattr(self, name))
        return given


class NewCustomerBody(_Fields):
    """A customer to create."""

    id: Annotated[RecordId | None, Field(description="Made up if omitted; never used again.")] = (
        None
    )


class CustomerUpdate(_Fields):
    """What to change. A field that is omitted stays as it is; null restores the plan's."""


class ReasonBody(Body):
    """Why; kept in the audit log."""

    reason: Reason | None = None


class CustomersQuery(Paging):
    """Which customers are wanted."""

    prefix: Annotated[
        Line | None, Field(description="Only those whose ids begin like this.", max_length=128)
    ] = None
    expand: Expand = ()


class CustomerQuery(Body):
    """What to include."""

    expand: Expand = ()


@router.get("/customers", summary="List customers in the order of their ids")
async def list_all_customers(
    query: Annotated[CustomersQuery, Query()],
    session: Annotated[Session, Depends(require("customers.read"))],
) -> ListOf[Customer]:
    found = await list_customers(
        session.backend,
        after=query.starting_after or "",
        limit=query.limit,
        prefix=query.prefix or "",
    )
    customers = [await _answer(session.backend, view, query.expand) for view in found.customers]
    return ListOf[Customer](
        data=customers, has_more=found.after is not None, next_cursor=found.after
    )


@router.post("/customers", summary="Create a customer with a wallet", status_code=201)
async def create_customer(
    body: NewCustomerBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("customers.write"))],
) -> Customer:
    new = NewCustomer(body.id, **body.given())
    made = await customer_changes.create_customer(session.backend, new, body.reason)
    return await _answer(session.backend, made)


@router.get("/customers/{customer_id}", summary="Retrieve a customer")
async def retrieve_customer(
    customer_id: Annotated[RecordId, Path()],
    query: Annotated[CustomerQuery, Query()],
    session: Annotated[Session, Depends(require("customers.read"))],
) -> Customer:
    view = await get_customer(session.backend, customer_id)
    return await _answer(session.backend, view, query.expand)


@router.patch("/customers/{customer_id}", summary="Change a customer")
async def update_customer(
    customer_id: Annotated[RecordId, Path()],
    body: CustomerUpdate,
    _: WriteKey,
    session: Annotated[Session, Depends(require("customers.write"))],
) -> Customer:
    change = CustomerChange(**body.given())
    view = await customer_changes.update_customer(session.backend, customer_id, change, body.reason)
    return await _answer(session.backend, view)


@router.post("/customers/{customer_id}/suspend", summary="Admit nothing new of a customer")
async def suspend_customer(
    customer_id: Annotated[RecordId, Path()],
    body: ReasonBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("customers.write"))],
) -> Customer:
    backend = session.backend
    view = await customer_changes.suspend_customer(backend, customer_id, body.reason)
    return await _answer(backend, view)


@router.post(
    "/customers/{customer_id}/resume",
    summary="End a suspension, and any other freeze of the customer's wallets",
)
async def resume_customer(
    customer_id: Annotated[RecordId, Path()],
    body: ReasonBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("customers.write"))],
) -> Customer:
    backend = session.backend
    view = await customer_changes.resume_customer(backend, customer_id, body.reason)
    return await _answer(backend, view)


@router.delete(
    "/customers/{customer_id}",
    summary="Erase a customer's personal data, revoke its keys and freeze its wallets, permanently",
)
async def delete_customer(
    customer_id: Annotated[RecordId, Path()],
    _: WriteKey,
    session: Annotated[Session, Depends(require("customers.write"))],
    reason: Reason | None = None,
) -> Customer:
    view = await customer_changes.delete_customer(session.backend, customer_id, reason)
    return await _answer(session.backend, view)


async def _answer(
    backend: Backend, view: CustomerView, expand: tuple[Expandable, ...] = ()
) -> Customer:
    record, own = view.record, customer_document(view)
    own["limits"] = limits_of(record.limits)
    own["projects"] = sorted(record.projects)
    if "wallet" in expand and view.wallet is not None:
        own["wallet"] = await read_wallet(backend, record.customer_id)
    if "keys" in expand:
        own["keys"] = await keys_of(backend, record.customer_id)
    return Customer(**own)
