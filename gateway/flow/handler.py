"""The flow of one request, whole, on this page:

    route → authenticate → read → bound → reserve → forward → meter → settle → event

Invariants: nothing is forwarded before the ledger has granted a hold (free routes aside), and after
that `Run.resolve` is called on every way out, exactly once in effect. A branch of the flow that
is not visible here does not exist: how a hold grows and ends is `running.py`, what the last credit
pays for is `last_credit.py`, how an answer is passed on is `relay.py`, who is asking is
`accounts.py`, what a refusal says is `refused.py`.
"""

import time
from asyncio import CancelledError, current_task
from contextlib import suppress
from typing import Any

from gateway.dialects.base import BadRequest, Dialect, ForwardOptions, RequestFacts
from gateway.dialects.passing import passing_query
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Denied, Hold, IdempotencyKey, Repeated
from gateway.flow.authentication import Accounts
from gateway.flow.catalog import Catalog, Model, Route
from gateway.flow.context import Trail
from gateway.flow.envelope import common_fields
from gateway.flow.estimate import Bound, bound_request, forward_options, scoped_options
from gateway.flow.idempotency import Repeats, idempotency_of, read_name
from gateway.flow.last_credit import lower_bound
from gateway.flow.observer import Observer
from gateway.flow.rate_fields import rate_fields
from gateway.flow.refusals import (
    INTERNAL,
    Refused,
    as_refused,
    refusal_headers,
    refused_by_kill,
    refused_by_ledger,
    refused_by_upstream,
)
from gateway.flow.relay import relay, relay_free
from gateway.flow.request_body import read_asked
from gateway.flow.reservation.delivery import Settlements
from gateway.flow.reservation.pending_settlement import pack_facts
from gateway.flow.reservation.run import Run
from gateway.flow.retries import RETRY_COUNT, Attempts
from gateway.http.client.target import join_query
from gateway.http.cors import is_preflight
from gateway.http.interface import BodyError, CancelledUnsent, ClientGone, Exchange, UpstreamError
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable
from gateway.ledger.codec.calls import QuoteCall, ReserveCall
from gateway.ledger.reservations import Reservations


class Flow:
    """Handles requests. Everything it needs is compiled before; a reload swaps `catalog` and `accounts`."""

    def __init__(
        self,
        catalog: Catalog,
        accounts: Accounts,
        ledger: Reservations,
        settlements: Settlements,
        observer: Observer,
        repeats: Repeats,
        attempts: Attempts,
    ) -> None:
        self.catalog = catalog
        self.accounts = accounts
        self.draining = False
        self._ledger = ledger
        self._settlements = settlements
        self._observer = observer
        self._repeats = repeats
        self._attempts = attempts

    async def __call__(self, exchange: Exchange) -> None:
        """One request, to its end. Raises nothing but cancellation."""
        trail = Trail()
        catalog = self.catalog
        dialect = catalog.speaker(exchange)
        exchange.also = common_fields(exchange, dialect, trail.request_id, catalog.cors)
        try:
            if catalog.cors is not None and is_preflight(exchange):
                await catalog.cors.answer(exchange)
                return
            trail.route = route = self._route(exchange)
            if route.local is None and route.dialect is not dialect:
                dialect = route.dialect
                exchange.also = common_fields(exchange, dialect, trail.request_id, catalog.cors)
            if not route.public:
                trail.account = await self.accounts.authenticate(
                    exchange,
                    reserves=route.reserves,
                    query_key=route.dialect.reads_key_query,
                )
            if route.local is not None:
                await route.local(exchange, trail.account, trail.request_id)
            elif route.free:
                await self._forward_free(exchange, trail, route)
            else:
                await self._forward_paid(exchange, trail, route)
        except (Refused, BadRequest, BodyError, LedgerUnavailable) as error:
            await self._refuse(exchange, trail, dialect, as_refused(error))
        except ClientGone:
            trail.reason = "client_gone"
        except Exception as fault:
            self._observer.fault(trail, fault)
            await self._refuse(exchange, trail, dialect, INTERNAL)
        finally:
            self._observer.request(trail, exchange)

    async def _forward_paid(self, exchange: Exchange, trail: Trail, route: Route) -> None:
        assert trail.account is not None
        name = read_name(exchange)
        if exchange.header("expect") is not None:
            await self._refuse_the_penniless(trail, route)
        dialect = route.dialect
        asked = await read_asked(exchange, route.dialect, self.catalog.max_body_bytes)
        facts = dialect.read(asked, route.reading)
        fingerprint = dialect.fingerprint(asked, facts)
        idempotency = (
            None if name is None else idempotency_of(trail.account, route.path, name, fingerprint)
        )
        model = self._model(route, facts, trail)
        expected = self._settlements.expected_output(trail.account, facts, model, route.policy)
        bound = bound_request(facts, model, route.policy, expected)
        event = self._event(trail, route, model, bound)
        attempt = self._attempts.begin(
            trail.account,
            route.path,
            trail.request_id,
            fingerprint,
            named=idempotency is not None,
            retry_count=exchange.header(RETRY_COUNT),
        )
        event["retry_of"] = attempt.earlier()
        held = await self._reserve(exchange, trail, route, facts, model, bound, event, idempotency)
        if isinstance(held, Repeated):
            await self._repeat(exchange, trail, route, held)
            return
        hold, bound = held
        run = Run(
            self._settlements,
            trail.account,
            model,
            route.policy,
            bound,
            hold,
            event,
            trail.started_at,
            stream=facts.stream,
            idempotency=idempotency,
            attempt=attempt,
        )
        answered = False
        try:
            self._observer.admitted(trail)
            task = current_task()
            assert task is not None
            run.interrupt = task.cancel
            exchange.limit_after_gone(run.linger_ms, task.cancel, run.leaving)
            headers = model.forwarding.fields(
                asked.fields,
                exchange.header("connection"),
                trail.request_id,
                route.dialect.forward_type(facts),
                route.dialect.api,
            )
            options = forward_options(facts, model, route.policy, bound.lowered)
            options = scoped_options(options, facts, trail.account.customer_id)
            target = _target(dialect, facts, options, exchange)
            body = route.dialect.forward_body(facts, options)
            if exchange.client_gone():
                raise ClientGone
            before = time.monotonic()
            run.stage = "sent"
            answer = await model.upstream.send(exchange.method, target, headers, body)
            self._observer.answered(trail, model.upstream.name, time.monotonic() - before)
            try:
                broke = await relay(
                    exchange, answer, run, route.dialect, facts, trail.request_id, before
                )
            finally:
                answer.close()
            answered = broke is None and run.answered
            trail.reason = run.flags[-1] if run.flags else ""
            if broke is not None:
                self._observer.upstream_failed(trail, model.upstream.name, broke)
        except UpstreamError as error:
            run.note_failure(error, "upstream_failed")
            self._observer.upstream_failed(trail, model.upstream.name, error)
            raise refused_by_upstream(error) from None
        except (ClientGone, CancelledError) as left:
            run.leave(unsent=isinstance(left, CancelledUnsent))
            if run.killed is not None and isinstance(left, CancelledError):
                raise refused_by_kill(run.killed) from None
            raise ClientGone from None
        finally:
            run.resolve()
            run.close(answered=answered)

    async def _forward_free(self, exchange: Exchange, trail: Trail, route: Route) -> None:
        dialect = route.dialect
        asked = await read_asked(exchange, route.dialect, self.catalog.max_body_bytes)
        facts = dialect.read(asked, route.reading)
        upstream, forwarding, options = route.upstream, route.forwarding, NAMELESS
        if upstream is None or forwarding is None:
            model = self._model(route, facts, trail)
            upstream, forwarding, options = model.upstream, model.forwarding, model.forward
            if trail.account is not None:
                options = scoped_options(options, facts, trail.account.customer_id)
        headers = forwarding.fields(
            asked.fields,
            exchange.header("connection"),
            trail.request_id,
            dialect.forward_type(facts),
            dialect.api,
        )
        target = _target(dialect, facts, options, exchange)
        body = dialect.forward_body(facts, options)
        trail.admitted = True
        try:
            answer = await upstream.send(exchange.method, target, headers, body)
            try:
                await relay_free(exchange, answer, forwarding, trail.request_id)
            finally:
                answer.close()
        except UpstreamError as error:
            self._observer.upstream_failed(trail, upstream.name, error)
            raise refused_by_upstream(error) from None

    # Steps, in the order of the flow

    def _route(self, exchange: Exchange) -> Route:
        route = self.catalog.paths.find(exchange.path)
        if route is None:
            raise Refused(
                "not_found",
                f"There is no endpoint {exchange.method} {exchange.path[:200]} here."
                " This gateway serves only the endpoints its operator has configured.",
            )
        if exchange.method not in route.methods:
            for other in route.beside:
                if exchange.method in other.methods:
                    return self._open(other)
            methods = route.methods.union(*(other.methods for other in route.beside))
            raise Refused(
                "method_not_allowed",
                f"{exchange.path} takes {', '.join(sorted(methods))}, not {exchange.method[:20]}.",
                headers=(("allow", ", ".join(sorted(methods))),),
            )
        return self._open(route)

    def _open(self, route: Route) -> Route:
        if self.draining and not route.public:
            raise Refused("shutting_down", "The gate is shutting down. Try again.")
        return route

    async def _refuse_the_penniless(self, trail: Trail, route: Route) -> None:
        """A client that asks before it sends its body (RFC 9110, 10.1.1) hears of an empty wallet."""
        assert trail.account is not None
        quote = await self._ledger.quote(
            self._ledger.shards.pack(trail.account), QuoteCall(NOTHING, b"", 0)
        )
        if quote.available_nano <= 0:
            denied = Denied("insufficient_credits", 0, quote.available_nano, quote.balance_nano)
            raise refused_by_ledger(denied, insufficient_status=route.policy.insufficient_status)

    def _model(self, route: Route, facts: RequestFacts, trail: Trail) -> Model:
        name = route.priced_as or facts.model
        trail.model = name[:200]
        assert trail.account is not None
        model = self.catalog.model_for(name, trail.account.customer_id)
        if model is None or model.of_route is not (route.priced_as is not None):
            raise Refused(
                "unknown_model",
                f"The model `{trail.model}` does not exist here or has no price.",
                code="model_not_found",
                param="model",
            )
        allowed = trail.account.models
        if allowed is not None and model.name not in allowed:
            raise Refused(
                "forbidden_model",
                f"This API key may not use the model `{trail.model}`.",
                code="model_not_found",
                param="model",
            )
        return model

    def _event(self, trail: Trail, route: Route, model: Model, bound: Bound) -> dict[str, Any]:
        """The facts of the usage event, as far as they are known before the request runs."""
        account = trail.account
        assert account is not None
        event = {
            "request_id": trail.request_id,
            "customer_id": account.customer_id,
            "project_id": account.project_id,
            "key_id": account.key_id,
            "route": route.path,
            "model": model.name,
            "upstream": model.upstream.name,
            "price_version": model.prices.price_version,
            "unit": "credit",
            "mode": self.catalog.mode,
            "livemode": account.livemode,
            "tags": account.tags,
            "retry_of": None,
        }
        if len(model.prices.service_tiers) > 1:
            event["service_tier"] = bound.tiers[0]
        return event

    async def _reserve(
        self,
        exchange: Exchange,
        trail: Trail,
        route: Route,
        asked: RequestFacts,
        model: Model,
        bound: Bound,
        event: dict[str, Any],
        idempotency: IdempotencyKey | None,
    ) -> tuple[Hold, Bound] | Repeated:
        """Hold the bound, or at the end of the credit what is left of it, unless a request of the same
        name has.

        Raises Refused, and LedgerUnavailable after making sure nothing leaks.
        """
        account = trail.account
        assert account is not None
        prices = model.prices
        facts = pack_facts(event)
        refreshed = lowered = False
        while True:
            estimate = prices.vector(bound.held_usage(model))
            floor = prices.vector(
                bound.checkpoint_usage(model, route.policy, bound.counted_usage(0))
            )
            try:
                answer = await self._ledger.reserve(
                    self._ledger.shards.pack(account),
                    ReserveCall(
                        trail.request_id,
                        prices,
                        estimate,
                        floor,
                        facts,
                        bound.tokens,
                        route.policy.hold_ttl_ms,
                        model.scope_bits,
                        model.name,
                        idempotency,
                    ),
                )
            except (LedgerUnavailable, LedgerBug, CancelledError) as error:
                if not isinstance(error, LedgerUnavailable) or error.unknown:
                    self._settlements.abandon(account, trail.request_id, facts, idempotency)
                raise
            if isinstance(answer, Hold):
                trail.held_nano = answer.held_nano
                exchange.also += rate_fields(account, model.name, answer.reserved_at_ms)
                return answer, bound
            if answer.repeats is not None:
                return answer.repeats
            if answer.reason == "insufficient_credits" and not lowered:
                lowered = True
                less = await lower_bound(
                    self._ledger, account, asked, model, route.policy, bound, answer
                )
                if isinstance(less, Bound):
                    bound = less
                    continue
                answer = less
            trail.denied = answer
            if answer.reason != "stale_account" or refreshed:
                now_ms = time.time_ns() // 1_000_000
                exchange.also += rate_fields(account, model.name, now_ms, answer)
                raise refused_by_ledger(
                    answer, insufficient_status=route.policy.insufficient_status
                )
            refreshed = True
            account = trail.account = await self.accounts.refresh(
                account, exchange, query_key=route.dialect.reads_key_query
            )

    async def _repeat(
        self, exchange: Exchange, trail: Trail, route: Route, repeats: Repeated
    ) -> None:
        """Answer as the first request of this name was answered, or say what became of it."""
        assert trail.account is not None
        await self._repeats.answer(
            exchange,
            trail.account,
            repeats,
            trail.request_id,
            keeps_answers=route.policy.keep_answers,
        )
        self._observer.replayed(trail)

    async def _refuse(
        self, exchange: Exchange, trail: Trail, dialect: Dialect, refused: Refused
    ) -> None:
        trail.reason = refused.reason
        refusal = refused.as_refusal(trail.request_id)
        status, body = dialect.refusal(refusal)
        if not trail.admitted:
            trail.decision = "deny"
            self._observer.denied(trail, refused, status)
        if exchange.status:
            exchange.abort()  # an answer has begun: the client must see that it is cut
            return
        with suppress(ClientGone):
            headers = [*refusal_headers(refusal), *refused.headers]
            await exchange.answer(status, headers, body)


NOTHING = compile_prices({})
"""A price without rows: what a quote of nothing is rated at."""


NAMELESS = ForwardOptions("")
"""For a free request that names no model."""


def _target(
    dialect: Dialect, facts: RequestFacts, options: ForwardOptions, exchange: Exchange
) -> str:
    """Path and query at the upstream: the dialect's, and what its API lets pass of the caller's."""
    return join_query(
        dialect.forward_target(facts, options, exchange.path),
        passing_query(dialect.api, exchange.query),
    )
