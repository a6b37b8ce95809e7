"""The peers of the accuracy run, and the list of all contenders.

Each peer is started as its documentation says, from an environment of its own. hardcap's budget is a
window of tokens, here one of ten years; TensorZero's is a token bucket for each user that refills by
one token a month.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import redis
import yaml

from loadtest import gate as gates
from loadtest.accuracy.contenders import OURS, RICH_TOKENS, Charge, Contender, Replicas
from loadtest.accuracy.scenario import WARM, Scenario, chat_document, http_chat, key_of
from loadtest.peers import hardcap as hardcaps
from loadtest.peers import tensorzero as tensorzeros

TEN_YEARS_S: Final = 315_360_000


def hardcap(name: str, about: str, python: Path, budget: Mapping[str, Any]) -> Contender:
    """hardcap with this `budget` section, run by the Python that has it installed."""

    @contextlib.contextmanager
    def running(scenario: Scenario, url: str, socket: Path, folder: Path) -> Iterator[Replicas]:
        config = folder / "hardcap.yaml"
        document = {
            "redis_url": f"unix://{socket}",
            "budget": dict(budget),
            "upstreams": {"sim": {"kind": "openai", "base_url": url}},
            "routes": {
                gates.MODEL: {"targets": [{"upstream": "sim", "model": gates.MODEL}]},
            },
            "tenants": {
                tenant: {
                    "api_keys": [key_of(tenant)],
                    "budget": {"window_s": TEN_YEARS_S, "total": total},
                }
                for tenant, total in [*((t, scenario.budget) for t in scenario.names), (WARM, 0)]
            },
        }
        config.write_text(yaml.safe_dump(document))
        with contextlib.ExitStack() as stack:
            log = stack.enter_context((folder / "hardcap.log").open("wb"))
            replicas = [
                stack.enter_context(hardcaps.serving(python, config, log))
                for _ in range(scenario.replicas)
            ]
            urls = [replica.url for replica in replicas]
            yield Replicas(
                urls,
                lambda: {"gate": [replica.pid for replica in replicas]},
                lambda: _hardcap_charges(scenario, urls[0]),
            )

    return Contender(name, about, False, running, peer=budget.get("estimator") == "p95")


def _hardcap_charges(scenario: Scenario, url: str) -> dict[str, Charge]:
    charges = {}
    for tenant in scenario.names:
        answer = httpx.get(
            f"{url}/v1/hardcap/usage",
            headers={"authorization": f"Bearer {key_of(tenant)}"},
            trust_env=False,
        ).raise_for_status()
        said = answer.json()
        charges[tenant] = Charge(sum(said["used"].values()), sum(said["reserved"].values()))
    return charges


def tensorzero(python: Path) -> Contender:
    """TensorZero with a token bucket for each tenant, run by the Python that has it installed."""

    @contextlib.contextmanager
    def running(scenario: Scenario, url: str, socket: Path, folder: Path) -> Iterator[Replicas]:
        config = folder / "tensorzero.toml"
        budget = f"tokens_per_month = {{ capacity = {scenario.budget}, refill_rate = 1 }}"
        rules = [
            tensorzeros.Rule([budget]),
            tensorzeros.Rule([f"tokens_per_minute = {RICH_TOKENS}"], WARM),
        ]
        config.write_text(tensorzeros.config({gates.MODEL: url}, rules))
        with contextlib.ExitStack() as stack:
            replicas = []
            for number in range(scenario.replicas):
                log = stack.enter_context((folder / f"tensorzero-{number}.log").open("wb"))
                replicas.append(
                    stack.enter_context(tensorzeros.serving(python, config, socket, log))
                )
            yield Replicas(
                [replica.url for replica in replicas],
                lambda: {"gate": [replica.pid for replica in replicas]},
                lambda: _tensorzero_charges(scenario, socket),
                _tensorzero_request,
            )

    return Contender("tensorzero", "reserves max_tokens", False, running)


def _tensorzero_request(scenario: Scenario, tenant: str, tokens: int) -> bytes:
    document = chat_document(scenario, tenant, tokens)
    # It does not forward `metadata`, which holds the simulator's controls.
    controls = {"pointer": "/metadata", "value": document.pop("metadata")}
    document |= tensorzeros.members(gates.MODEL, tenant)
    document["tensorzero::extra_body"] = [controls]
    return http_chat(tenant, document, tensorzeros.PATH)


def _tensorzero_charges(scenario: Scenario, socket: Path) -> dict[str, Charge]:
    """Charges and holds are one number there: when streams run, both are in it."""
    charges = {}
    with redis.Redis(unix_socket_path=str(socket)) as client:
        for tenant in scenario.names:
            scope = {"type": "TagEach", "key": "user_id", "value": tenant}
            name = orjson.dumps({"resource": "token", "scope_key": [scope]}).decode()
            balance = client.hget(f"tensorzero_ratelimit:{name}", "balance")
            left = scenario.budget if balance is None else int(balance)
            charges[tenant] = Charge(scenario.budget - left, 0)
    return charges


def contenders(hardcap_python: Path | None, tensorzero_python: Path | None) -> list[Contender]:
    """All that are run; a peer is left out without the Python that has it."""
    peers = []
    if hardcap_python is not None:
        python = hardcap_python
        modes: list[tuple[str, str, dict[str, Any]]] = [
            ("hardcap count", "counts afterwards", {"accounting": "posthoc"}),
            ("hardcap max", "reserves max_tokens", {"estimator": "max_tokens"}),
            ("hardcap p95", "its default: rolling p95, truncates", {"estimator": "p95"}),
        ]
        peers = [hardcap(name, about, python, budget) for name, about, budget in modes]
    if tensorzero_python is not None:
        peers.append(tensorzero(tensorzero_python))
    return [*peers, *OURS]
