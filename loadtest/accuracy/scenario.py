"""What every contender is put through: tenants, budgets, callers, and the length of each answer. Pure.

Invariants: the n-th request of a tenant has the same length in every contender's run of a repetition.
A token of input and a token of output count one each against the budget, in both gates.
"""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from loadtest.gate import MODEL
from loadtest.requests import CHAT_PATH, CLIENT_HEADERS, http_request

PROMPT: Final = "Tell me a story."
INPUT_TOKENS: Final = 11
"""What the provider reports for the prompt: by hardcap's own rule (a quarter of its characters,
4 for the message, 3 more), so that hardcap's estimate of the input is exact."""

WARM: Final = "warm"
"""The tenant without a budget that lets estimators learn the lengths before the run."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """The test of hardcap's own table, with fewer tenants.

    budget:          tokens of a tenant, input and output
    streams:         callers of a tenant, each with one stream at a time
    median, sigma:   of the log-normal length of an answer, in tokens (sigma is the default of
                     hardcap's simulated model; its table names none)
    ttft_ms, itl_ms: before the first token, and between two
    warm_requests:   sent before the run, for a tenant of no account
    timeout_s:       a run that takes longer is given up
    """

    tenants: int = 3
    replicas: int = 3
    streams: int = 128
    budget: int = 20_000
    max_tokens: int = 1024
    median: float = 150
    sigma: float = 0.8
    ttft_ms: float = 50
    itl_ms: float = 20
    warm_requests: int = 576
    timeout_s: float = 300
    seed: int = 1

    @property
    def names(self) -> list[str]:
        """The tenants' names."""
        return [f"tenant-{number}" for number in range(self.tenants)]

    def lengths(self, tenant: str, repetition: int) -> Iterator[int]:
        """Output tokens that the tenant's requests want, in order; at most `max_tokens` come."""
        rng = random.Random(f"{self.seed} {repetition} {tenant}")
        while True:
            wanted = round(rng.lognormvariate(math.log(self.median), self.sigma))
            yield min(max(1, wanted), self.max_tokens)

    def request(self, tenant: str, tokens: int) -> bytes:
        """The request for an answer of so many tokens, on the wire; `served` knows it by `tag`."""
        return http_chat(tenant, chat_document(self, tenant, tokens))


def chat_document(scenario: Scenario, tenant: str, tokens: int) -> dict[str, Any]:
    """The body of the request for an answer of so many tokens."""
    pace = "" if tenant == WARM else f" ttft_ms={scenario.ttft_ms:g} itl_ms={scenario.itl_ms:g}"
    return {
        "model": MODEL,
        "max_tokens": scenario.max_tokens,
        "stream": True,
        "messages": [{"role": "user", "content": PROMPT}],
        # not part of the prompt: no gate counts it
        "metadata": {"sim": f"tokens={tokens} input={INPUT_TOKENS}{pace} tag={tenant}"},
    }


def http_chat(tenant: str, document: Mapping[str, Any], path: str = CHAT_PATH) -> bytes:
    """A tenant's chat request on the wire."""
    headers = {**CLIENT_HEADERS, "authorization": f"Bearer {key_of(tenant)}"}
    return http_request(path, orjson.dumps(document), headers)


def key_of(tenant: str) -> str:
    """The tenant's API key."""
    return f"sk-{tenant}"
