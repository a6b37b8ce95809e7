"""What the gate answers itself: the models a key may use, the balance of its wallet, health."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import orjson

from gateway.dialects.models import (
    GeminiModel,
    ModelTerms,
    list_gemini_models,
    list_models,
    show_gemini_model,
    show_model,
)
from gateway.domain.money import format_amount
from gateway.domain.reservation import Account
from gateway.domain.standing import Standing, standing_document
from gateway.flow.catalog import LocalAnswer
from gateway.flow.refusals import Refused
from gateway.http.interface import Exchange, encode_fields
from gateway.ledger.client.errors import LedgerUnavailable

JSON = ("content-type", "application/json")


@dataclass(frozen=True, slots=True)
class Balance:
    """A wallet as its key holders see it. All in nano-credits.

    settled_today_nano:  since midnight UTC, as far as the store has it; None when it cannot say
    limits:              those that a request of this key may meet
    """

    balance_nano: int
    held_nano: int
    available_nano: int
    credit_limit_nano: int
    granted_nano: int
    settled_nano: int
    settled_today_nano: int | None
    limits: tuple[Standing, ...] = ()


FindTerms = Callable[[str, Account | None], ModelTerms]
"""(model, account) → what a list says of its price."""


def answer_models(names: list[str], created_s: int, find_terms: FindTerms) -> LocalAnswer:
    """`GET /v1/models`: those that the key may use, in the caller's dialect."""

    async def answer(exchange: Exchange, account: Account | None, request_id: str) -> None:
        shown = [name for name in names if _may_use(account, name)]
        body = list_models(
            shown,
            created_s,
            anthropic=_speaks_anthropic(exchange),
            terms={name: find_terms(name, account) for name in shown},
        )
        await exchange.answer(200, encode_fields([JSON, ("x-request-id", request_id)]), body)

    return answer


def answer_model(name: str, created_s: int, find_terms: FindTerms) -> LocalAnswer:
    """`GET /v1/models/NAME`."""

    async def answer(exchange: Exchange, account: Account | None, request_id: str) -> None:
        if not _may_use(account, name):
            raise Refused(
                "unknown_model", f"The model `{name}` does not exist here.", code="model_not_found"
            )
        body = show_model(
            name,
            created_s,
            anthropic=_speaks_anthropic(exchange),
            terms={name: find_terms(name, account)},
        )
        await exchange.answer(200, encode_fields([JSON, ("x-request-id", request_id)]), body)

    return answer


def answer_gemini_models(models: Sequence[GeminiModel], find_terms: FindTerms) -> LocalAnswer:
    """`GET /v1beta/models`: those that the key may use, in Gemini's shape."""

    async def answer(exchange: Exchange, account: Account | None, request_id: str) -> None:
        shown = [model for model in models if _may_use(account, model.name)]
        body = list_gemini_models(shown, {m.name: find_terms(m.name, account) for m in shown})
        await exchange.answer(200, encode_fields([JSON, ("x-request-id", request_id)]), body)

    return answer


def answer_gemini_model(model: GeminiModel, find_terms: FindTerms) -> LocalAnswer:
    """`GET /v1beta/models/NAME`."""

    async def answer(exchange: Exchange, account: Account | None, request_id: str) -> None:
        if not _may_use(account, model.name):
            raise Refused(
                "unknown_model",
                f"The model `{model.name}` does not exist here.",
                code="model_not_found",
            )
        body = show_gemini_model(model, find_terms(model.name, account))
        await exchange.answer(200, encode_fields([JSON, ("x-request-id", request_id)]), body)

    return answer


def answer_credits(read: Callable[[Account], Awaitable[Balance | None]]) -> LocalAnswer:
    """`GET /v1/credits`: what the key's wallet holds; decimals of credits as strings."""

    async def answer(exchange: Exchange, account: Account | None, request_id: str) -> None:
        assert account is not None, "not a public route"
        balance = await read(account)
        if balance is None:
            raise LedgerUnavailable(f"the ledger has no wallet of {account.customer_id}")
        today = balance.settled_today_nano
        data = {
            "object": "credits",
            "label": account.key_id,
            "customer": account.customer_id,
            "limit": format_amount(balance.granted_nano + balance.credit_limit_nano),
            "limit_remaining": format_amount(balance.available_nano),
            "usage": format_amount(balance.settled_nano),
            "usage_daily": None if today is None else format_amount(today),
            "balance": format_amount(balance.balance_nano),
            "held": format_amount(balance.held_nano),
            "available": format_amount(balance.available_nano),
            "credit_limit": format_amount(balance.credit_limit_nano),
            "limits": [standing_document(standing) for standing in balance.limits],
        }
        headers = [JSON, ("x-request-id", request_id), ("cache-control", "no-store")]
        await exchange.answer(200, encode_fields(headers), orjson.dumps({"data": data}))

    return answer


def answer_health(
    reason: Callable[[], str | None], degraded: Callable[[], tuple[str, ...]] = tuple
) -> LocalAnswer:
    """`/healthz` and `/readyz`: 200, or 503 with the reason that is given.

    degraded: what refuses some requests although others are served
    """

    async def answer(exchange: Exchange, _: Account | None, __: str) -> None:
        problem, partly = reason(), degraded()
        said: dict[str, object] = {"status": problem or "ok"}
        if partly:
            said["degraded"] = partly
        await exchange.answer(
            200 if problem is None else 503, encode_fields([JSON]), orjson.dumps(said)
        )

    return answer


def _may_use(account: Account | None, model: str) -> bool:
    return account is None or account.models is None or model in account.models


def _speaks_anthropic(exchange: Exchange) -> bool:
    return exchange.header("anthropic-version") is not None
