"""`quote`: what a request would hold and could cost at most, and whether it would be admitted now.

The request has been read and bounded as the flow does it (`gateway/app/quoting.py`); the ledger's
own script rates it. Nothing is sent and nothing held.
"""

from dataclasses import dataclass
from typing import Any

from gateway.domain.money import format_amount
from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import Account, Quote
from gateway.domain.usage import Usage
from gateway.ledger.codec.calls import QuoteCall
from gateway.operations.backend import Backend
from gateway.operations.documents import line_amounts
from gateway.operations.why import PriceLine, price_line


@dataclass(frozen=True, slots=True)
class WorstCase:
    """A usage that a request is held for, and what it counts against limits on tokens."""

    usage: Usage
    tokens: int


@dataclass(frozen=True, slots=True)
class QuoteRequest:
    """A request as the flow would reserve for it.

    input, output, held_output: bounds in tokens; of a stream a part of the output is held at first
    held:       what the hold covers at first. most: what it may grow to
    scope_bits: groups of the model, for grants that pay for some groups alone
    """

    account: Account
    route: str
    model: str
    upstream: str
    stream: bool
    prices: PriceTable
    scope_bits: int
    input: int
    output: int
    held_output: int
    held: WorstCase
    most: WorstCase


@dataclass(frozen=True, slots=True)
class Quoted:
    """The answer.

    hold:         the ledger's decision, and what it would hold at first
    at_most_nano: the charge if everything is used
    held, most:   the priced units of either usage, in the same order
    """

    request: QuoteRequest
    hold: Quote
    at_most_nano: int
    held: tuple[PriceLine, ...]
    most: tuple[PriceLine, ...]


async def quote(backend: Backend, request: QuoteRequest) -> Quoted:
    """Ask the ledger; writes nothing. Raises LedgerUnavailable."""
    # Windows of limits are packed for one moment: both questions get the same, of the ledger's clock.
    ledger = backend.reservations_at(await backend.accounts.now_ms())

    packed = ledger.shards.pack(request.account)

    async def ask(worst: WorstCase) -> Quote:
        vector = request.prices.vector(worst.usage)
        call = QuoteCall(request.prices, vector, worst.tokens, request.scope_bits, request.model)
        return await ledger.quote(packed, call)

    hold, at_most = await ask(request.held), await ask(request.most)
    held, most = _lines(request, request.held), _lines(request, request.most)
    return Quoted(request, hold, at_most.estimate_nano, held, most)


def quote_document(quoted: Quoted) -> dict[str, Any]:
    """The quote as a JSON document; amounts are decimal strings of credits, quantities tokens."""
    request, hold = quoted.request, quoted.hold
    return {
        "customer_id": request.account.customer_id,
        "key_id": request.account.key_id or None,
        "route": request.route,
        "model": request.model,
        "upstream": request.upstream,
        "stream": request.stream,
        "decision": hold.decision,
        "hold": format_amount(hold.estimate_nano),
        "at_most": format_amount(quoted.at_most_nano),
        "available": format_amount(hold.available_nano),
        "balance": format_amount(hold.balance_nano),
        "bound": {
            "input": request.input,
            "output": request.output,
            "held_output": request.held_output,
        },
        "price_version": request.prices.price_version,
        "lines": [
            {"unit": line.unit, "quantity": line.quantity, **line_amounts(line)}
            for line in quoted.held
        ],
    }


def _lines(request: QuoteRequest, worst: WorstCase) -> tuple[PriceLine, ...]:
    """The priced units of a usage."""
    rates = request.prices.rates
    lines = (price_line(unit, quantity, rates) for unit, quantity in worst.usage.items())
    return tuple(line for line in lines if line.rate_pico != 0 or line.unit in rates)
