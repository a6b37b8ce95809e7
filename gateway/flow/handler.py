"""The life of one request, on one page:

    route → authenticate → read → estimate → reserve → forward → meter → settle → event

Invariants: in `enforce` nothing is forwarded before the ledger has granted a hold, and leaving the
reservation's block ends it exactly once, however the block is left. What is not visible here is one step below:
`known_head.py` (what follows from a head), `admission.py` (reserving), `sending.py` (which upstream gets
the request), `relay.py` (passing a response on), `reservation/` (growing, deciding, delivering),
`refusals.py` (what a refusal says).
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.dialects.base import Asked, BadRequest
from gateway.domain.customers import Mode, customer_of
from gateway.domain.usage_facts import UsageFacts
from gateway.flow.admission import Admission, RepeatedRequest, StaleAccount
from gateway.flow.authentication import Accounts, check_restrictions
from gateway.flow.catalog import Catalog
from gateway.flow.context import RequestContext
from gateway.flow.denials import refused_by_ledger, refused_frozen
from gateway.flow.envelope import common_fields
from gateway.flow.estimate import estimate_request, unbounded_estimate
from gateway.flow.idempotency import Repeats, idempotency_of, read_name
from gateway.flow.known_head import KnownHead
from gateway.flow.lookup import find_plan, find_route
from gateway.flow.observer import Observer
from gateway.flow.plan import Plan
from gateway.flow.plan_book import PlanBook
from gateway.flow.refusals import (
    INTERNAL,
    Refused,
    as_refused,
    refusal_headers,
    refused_by_upstream,
)
from gateway.flow.relay import relay
from gateway.flow.request_body import decode_in_thread, read_body_head, read_in_thread, reads_inline
from gateway.flow.reservation.reservation import Reservation, ReservationServices
from gateway.flow.reservation.unenforced import Bypassed, Shadowed
from gateway.flow.sending import Sender
from gateway.http.cors import is_preflight
from gateway.http.interface import (
    BodyError,
    ClientGone,
    Exchange,
    UpstreamError,
    UpstreamResponse,
    encode_fields,
)
from gateway.ledger.client.errors import LedgerUnavailable

_OPENS: Final[dict[Mode, type[Reservation]]] = {
    "enforce": Reservation,
    "shadow": Shadowed,
    "bypass": Bypassed,
}

LARGE_BODY_BYTES: Final = 64 << 10
"""Credit and limits are checked before a larger body is read."""


@dataclass(frozen=True, slots=True)
class FlowServices:
    """What the flow needs of a worker. relay: passes a response on; see `relay.py`"""

    admission: Admission
    reservations: ReservationServices
    observer: Observer
    repeats: Repeats
    relay: Callable[[RequestContext, UpstreamResponse, Reservation], Awaitable[None]] = relay


class Flow:
    """Handles requests by what is compiled before; a reload replaces `catalog` and `accounts`."""

    def __init__(self, catalog: Catalog, accounts: Accounts, services: FlowServices) -> None:
        self.catalog = catalog
        self.accounts = accounts
        self.draining = False
        self._plans = PlanBook()
        self._services = services
        self._observer = services.observer
        self._sender = Sender(services.observer)

    async def __call__(self, exchange: Exchange) -> None:
        """Handle one request to its end. Raises nothing but cancellation."""
        catalog = self.catalog
        context = RequestContext(exchange, catalog.fallback)
        try:
            if catalog.cors is not None and is_preflight(exchange):
                exchange.also = catalog.cors.fields(exchange)
                await catalog.cors.answer(exchange)
                return
            known = await self._know(context)
            if context.route.local is not None:
                if not context.route.public and known.enforces:
                    await self._services.admission.check_limits(context)
                await context.route.local(exchange, known.account, context.request_id)
            else:
                await self._forward(context, known)
        except (Refused, BadRequest, BodyError, LedgerUnavailable) as error:
            await self._refuse(context, as_refused(error))
        except UpstreamError as error:
            self._sender.failed(context, error)
            await self._refuse(context, refused_by_upstream(error))
        except ClientGone:
            context.reason = "client_gone"
        except Exception as fault:
            self._observer.fault(context, fault)
            await self._refuse(context, INTERNAL)
        finally:
            if context.probe:
                self._sender.drop_probe(context)
            self._observer.request(context)

    async def _forward(self, context: RequestContext, known: KnownHead) -> None:
        """Reserve, forward, relay, settle."""
        await self._read(context, known)
        try:
            try:
                await self._reserve_and_relay(context, known)
            except StaleAccount:
                # It has changed since it was read: read it again, and what it may use too.
                await self._reserve_and_relay(context, await self._refresh(context))
        except StaleAccount:
            assert context.denied is not None
            raise refused_by_ledger(context.denied, insufficient_status=402) from None
        except RepeatedRequest as again:
            await self._services.repeats.answer(context, again.repeated)
            self._observer.replayed(context)

    async def _reserve_and_relay(self, context: RequestContext, known: KnownHead) -> None:
        services = self._services
        plan = find_plan(context, known)
        if plan.mode != "enforce":
            known, plan = await self._check_unenforced(context, known, plan)
        unsendable = None
        if plan.spread is not None or plan.breaker.wary:
            try:
                plan = self._sender.choose(context, plan)
            except Refused as refused:
                if context.name is None or plan.mode != "enforce":
                    raise
                # It may repeat a request that has been done: only the ledger knows, as it reserves.
                unsendable = refused
        context.plan = plan
        facts = context.facts
        expected = services.reservations.expected.at_first(plan) if facts.stream else None
        try:
            context.estimate = estimate_request(facts, plan.model, plan.policy, expected)
        except BadRequest as objection:
            if plan.mode != "shadow":
                raise
            context.objection = as_refused(objection)
            context.estimate = unbounded_estimate(facts, plan.model, plan.policy)
        context.event = self._event(context)
        key = None if context.name is None else idempotency_of(context)
        async with _OPENS[plan.mode](services.reservations, context, key) as reservation:
            if unsendable is not None:
                raise unsendable
            self._observer.admitted(context)
            response = await self._sender.send(context, known, reservation)
            try:
                await services.relay(context, response, reservation)
            finally:
                response.close()
                context.reason = reservation.last_flag
        if context.broken is not None:
            self._sender.failed(context, context.broken)

    # Steps, in the order of the flow

    async def _know(self, context: RequestContext) -> KnownHead:
        """What follows from the head: concluded now, or from an equal head before."""
        exchange = context.exchange
        head = exchange.head
        known = head.memo
        if not isinstance(known, KnownHead) or not known.holds(
            self.catalog, self.accounts, exchange.remote
        ):
            known = await self._conclude(context)
            if known.route.reserves:
                head.memo = known
        context.route = route = known.route
        context.route_path = route.path
        context.dialect = route.dialect
        context.account = known.account
        context.retry_count = known.retry_count
        exchange.also = known.also
        if known.names_request:
            exchange.also += common_fields(route.dialect, context.request_id)
        if known.account is not None:
            exchange.owner = known.account.key_id
            if known.account.restrictions is not None:
                # Not a conclusion from the head: peers share heads, and time passes.
                check_restrictions(known.account.restrictions, exchange.remote)
        if self.draining and not route.public:
            raise Refused("shutting_down", "The gate is shutting down. Try again.")
        return known

    async def _conclude(self, context: RequestContext) -> KnownHead:
        exchange, catalog, accounts = context.exchange, self.catalog, self.accounts
        known = KnownHead(exchange.head, catalog, accounts)
        context.dialect = catalog.speaker(exchange)
        if catalog.cors is not None:
            known.also = catalog.cors.fields(exchange)
        exchange.also = common_fields(context.dialect, context.request_id) + known.also
        known.route = context.route = route = find_route(catalog, exchange)
        context.route_path = route.path
        context.dialect = route.dialect
        known.names_request = route.dialect.api == "anthropic"
        exchange.also = common_fields(route.dialect, context.request_id) + known.also
        if self.draining and not route.public:
            raise Refused("shutting_down", "The gate is shutting down. Try again.")
        if not route.public:
            known.account = context.account = await accounts.authenticate(
                exchange, reserves=route.reserves, query_key=route.dialect.reads_key_query
            )
            if accounts.is_current(known.account):
                # Reading it may have raised the revision; one that has changed meanwhile is read again.
                known.revision = accounts.revision
            known.trusted = accounts.trusts(exchange.remote)
            known.plans = self._plans.plans(catalog, accounts, known.account, route)
        if route.local is None:
            known.name = read_name(exchange)
            known.body = read_body_head(exchange, route.dialect)
        return known

    async def _read(self, context: RequestContext, known: KnownHead) -> None:
        """Read the body. A client without credit is refused before its large body is read."""
        exchange, route = context.exchange, context.route
        context.name = known.name
        length = exchange.content_length
        large = known.expects or length is None or length > LARGE_BODY_BYTES
        if large and known.enforces:
            await self._services.admission.check_credit(context)
        head = known.body
        body = await exchange.read_body(self.catalog.max_body_bytes)
        if head.coding is not None:
            body = await decode_in_thread(body, head.coding, self.catalog.max_body_bytes)
        asked = Asked(exchange.method, exchange.path, head.query, exchange.headers(), body)
        context.asked = asked
        if reads_inline(body):
            context.facts = route.dialect.read(asked, route.reading)
        else:
            context.facts = await read_in_thread(asked, route.dialect, route.reading)

    async def _refresh(self, context: RequestContext) -> KnownHead:
        """Conclude again after the ledger has said that the account changed."""
        assert context.account is not None
        # What was concluded is wrong, whatever its revision says: another request may have raised that.
        context.exchange.head.memo = None
        context.account = await self.accounts.refresh(
            context.account, context.exchange, query_key=context.route.dialect.reads_key_query
        )
        return await self._know(context)

    async def _check_unenforced(
        self, context: RequestContext, known: KnownHead, plan: Plan
    ) -> tuple[KnownHead, Plan]:
        """Check what a reserve checks in `enforce`: that the account is current, and not suspended."""
        account = context.account
        if account is None or not self.accounts.is_current(account):
            known = await self._refresh(context)
            plan, account = find_plan(context, known), context.account
        if account is not None and account.suspended and plan.mode != "enforce":
            self._services.reservations.noted_customer(context)  # follow it, to see that it resumes
            raise refused_frozen()
        return known, plan

    def _event(self, context: RequestContext) -> UsageFacts:
        """What the usage event says as far as it is known before the request is forwarded."""
        event = UsageFacts(context.request_id)
        event.retry_of = self._services.reservations.retries.earlier(context)
        if context.plan.shows_tier:
            event.service_tier = context.estimate.tiers[0]
        return event

    async def _refuse(self, context: RequestContext, refused: Refused) -> None:
        exchange = context.exchange
        context.reason = refused.reason
        if context.account is not None:
            refused.tell_top_up(
                context.route.policy.top_up_url, customer_of(context.account.customer_id)[0]
            )
        refusal = refused.as_refusal(context.request_id)
        status, body = context.dialect.refusal(refusal)
        if not context.admitted:
            context.decision = "deny"
            self._observer.denied(context, refused, status)
        if exchange.status:
            exchange.abort()  # a response has begun: the client must see that it is cut
            return
        with suppress(ClientGone):
            fields = encode_fields([*refusal_headers(refusal), *refused.headers])
            await exchange.answer(status, fields, body)
