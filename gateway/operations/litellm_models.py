"""LiteLLM's configuration file: its models with upstreams and prices.

A model without a known price is left out: the gate serves nothing that it cannot charge. Secrets of
the file are not copied; the configuration refers to a variable instead.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final

import yaml

from gateway.operations.errors import OperationError
from gateway.operations.litellm_providers import (
    PROVIDERS,
    Deployment,
    split_model,
    variable_of,
)
from gateway.operations.moving_in import DraftConfiguration, Section, usable_id
from gateway.operations.pricing_import import (
    LITELLM_FIELDS,
    ImportedCost,
    ImportFailed,
    from_genai_prices,
    litellm_cost,
    plain_decimal,
)

ASSUMED_OUTPUT_TOKENS: Final = 16_384
_MODES: Final = frozenset({"chat", "completion", "responses", "embedding"})
_WEIGHT_MOST: Final = 1000
_PARAMS: Final = frozenset(
    {
        *("model", "custom_llm_provider", "api_base", "api_key", "api_version", "weight"),
        *("max_tokens", "max_output_tokens", "max_input_tokens"),
    }
)
_GROUP_REASONS: Final[Mapping[str, str]] = {
    "master_key": "administration has keys and roles of its own (docs/how-to/console.md)",
    "database_url": "the ledger is in Redis; export the keys and give the export to --from as well",
    "fallbacks": "another model has another price: list several upstreams of one model instead",
    "num_retries": "a request is never sent twice once it may have been received",
    "model_group_alias": "",
}
_NO_COUNTERPART: Final = "has no counterpart here; see docs/reference/configuration.md"
_PARTS: Final = ("general_settings", "litellm_settings", "router_settings", "environment_variables")


def read_litellm_file(text: str, draft: DraftConfiguration) -> None:
    """Fill in upstreams and models. Raises OperationError for a file that is not LiteLLM's."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OperationError(f"it is not YAML: {error}") from error
    listed = tree.get("model_list") if isinstance(tree, dict) else None
    if not isinstance(listed, list):
        raise OperationError("it is not a configuration of LiteLLM: it has no `model_list`")
    groups: dict[str, list[Deployment]] = {}
    for number, entry in enumerate(listed):
        deployment = _deployment(entry, f"model_list[{number}]", draft)
        if deployment is not None:
            groups.setdefault(deployment.name, []).append(deployment)
    for name, deployments in groups.items():
        _add_model(name, deployments, draft)
    _add_aliases(tree, draft)
    for part in _PARTS:
        for name in _mapping(tree.get(part)):
            reason = _GROUP_REASONS.get(name, _NO_COUNTERPART)
            if reason:
                draft.leave_out(f"{part}.{name}", reason)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _deployment(entry: Any, at: str, draft: DraftConfiguration) -> Deployment | None:
    """The entry, or None with the reason noted."""
    params, info = (
        _mapping(_mapping(entry).get("litellm_params")),
        _mapping(entry.get("model_info")),
    )
    name, model = str(entry.get("model_name", "")), str(params.get("model", ""))
    what = f"{at} ({name})"
    if not name or not model:
        draft.leave_out(what, "it has no `model_name` or no `litellm_params.model`")
        return None
    if "$" in name + model:
        draft.leave_out(what, "`$` would be read as a variable")
        return None
    if "*" in name + model:
        draft.leave_out(what, "wildcards would admit models without a price: list each model")
        return None
    provider, model = split_model(model, params)
    if provider not in PROVIDERS:
        draft.leave_out(
            what, f"{provider} is not a provider that the gate can be given by an address and a key"
        )
        return None
    if info.get("mode", "chat") not in _MODES:
        reason = f"{info['mode']} is priced by route, not by token (docs/how-to/media.md)"
        draft.leave_out(what, reason)
        return None
    if not params.get("api_base") and PROVIDERS[provider].base_url is None:
        draft.leave_out(what, f"it has no `api_base`, and {provider} has no address of its own")
        return None
    others = [each for each in params if each not in _PARAMS and each not in LITELLM_FIELDS]
    if others:
        draft.leave_out(
            f"{what} {', '.join(others)}", "parameters of a deployment are not set here"
        )
    return Deployment(name, provider, model, params, info)


def _add_model(name: str, deployments: list[Deployment], draft: DraftConfiguration) -> None:
    priced = [each for each in map(_cost, deployments) if each is not None]
    if not priced:
        reason = (
            "no price is known. Add `input_cost_per_token` and `output_cost_per_token` to its"
            " `litellm_params`, or write the model by hand"
        )
        draft.leave_out(f"model {name}", reason)
        return
    cost, first = priced[0], deployments[0]
    if any(each.per_million != cost.per_million for each in priced):
        draft.leave_out(f"model {name}", "its deployments have several prices; the first was taken")
    for each in cost.left_out:
        draft.leave_out(f"model {name} {each}", "no price of this kind was carried over")
    rates = {"input": "0", "output": "0"}
    for unit, rate in cost.per_million.items():
        if "." not in unit:
            rates[unit] = plain_decimal(rate)
    section: Section = _served_by(deployments, draft)
    section |= {"prices": {"markup": "1"}, "costs": rates}
    section["max_output_tokens"] = _output_tokens(name, first, cost, draft)
    if cost.context_tokens:
        section["context_tokens"] = cost.context_tokens
    draft.models[name] = section
    note = PROVIDERS[first.provider].note
    if note:
        draft.leave_out(f"model {name}", note)


def _output_tokens(
    name: str, deployment: Deployment, cost: ImportedCost, draft: DraftConfiguration
) -> int:
    if deployment.info.get("mode") == "embedding":
        return 1
    said = cost.max_output_tokens or deployment.said.get("max_tokens")
    if isinstance(said, int) and said > 0:
        return said
    reason = f"the file does not say its largest output; {ASSUMED_OUTPUT_TOKENS} is assumed"
    draft.leave_out(f"model {name} max_output_tokens", reason)
    return ASSUMED_OUTPUT_TOKENS


def _cost(deployment: Deployment) -> ImportedCost | None:
    """What the file says, or else the bundled list: half a price would leave the other half free."""
    said = deployment.said
    try:
        cost = litellm_cost(deployment.model, said)
        needed = {"input"} if said.get("mode") == "embedding" else {"input", "output"}
        if needed <= cost.per_million.keys():
            return cost
        base = str(deployment.info.get("base_model") or deployment.model).rpartition("/")[2]
        [listed] = from_genai_prices([base], PROVIDERS[deployment.provider].genai)
    except ImportFailed:
        return None
    return ImportedCost(
        listed.provider,
        listed.model,
        listed.per_million,
        cost.context_tokens or listed.context_tokens,
        cost.max_output_tokens,
        listed.left_out,
    )


def _served_by(deployments: list[Deployment], draft: DraftConfiguration) -> Section:
    """`upstream`, or `upstreams` with weights."""
    entries: dict[str, Section] = {}
    for each in deployments:
        upstream = _upstream(each, draft)
        weight = each.params.get("weight", 1)
        weight = weight if isinstance(weight, int) and 0 < weight <= _WEIGHT_MOST else 1
        if upstream in entries:
            if entries[upstream]["upstream_model"] != each.model:
                reason = f"one upstream serves a model under one name; {each.model} is not used"
                draft.leave_out(f"model {each.name}", reason)
                continue
            entries[upstream]["weight"] += weight
        else:
            entries[upstream] = {
                "upstream": upstream,
                "weight": weight,
                "upstream_model": each.model,
            }
    for entry in entries.values():
        if entry["upstream_model"] == deployments[0].name:
            del entry["upstream_model"]
    if len(entries) > 1:
        return {"upstreams": list(entries.values())}
    [only] = entries.values()
    del only["weight"]
    return only


def _upstream(deployment: Deployment, draft: DraftConfiguration) -> str:
    """The name of its upstream, which is added if there is none yet."""
    provider, params = PROVIDERS[deployment.provider], deployment.params
    given = params.get("api_base")
    base_url = str(given).rstrip("/") + provider.path if given else str(provider.base_url)
    variable = variable_of(base_url)
    section: Section = {"base_url": f"${{{variable}}}" if variable else base_url}
    key = params.get("api_key")
    if key is not None or not given:
        name = variable_of(key) or provider.variable
        value = f"${{{name}}}"
        if key is not None and variable_of(key) is None:
            reason = f"secrets are not copied; set the variable {name}"
            draft.leave_out(f"api_key of {deployment.name}", reason)
        bearer = provider.header == "authorization"
        section["credential"] = {
            "header": provider.header,
            "value": f"Bearer {value}" if bearer else value,
        }
    return _named(usable_id(deployment.provider), section, draft)


def _named(stem: str, section: Section, draft: DraftConfiguration) -> str:
    name, number = stem, 1
    while draft.upstreams.setdefault(name, section) != section:
        number += 1
        name = f"{stem}-{number}"
    return name


def _add_aliases(tree: Mapping[str, Any], draft: DraftConfiguration) -> None:
    """`model_group_alias`: a second name of a model."""
    aliases = _mapping(_mapping(tree.get("router_settings")).get("model_group_alias"))
    for alias, target in aliases.items():
        if target not in draft.models:
            draft.leave_out(f"router_settings.model_group_alias.{alias}", "its model is left out")
            continue
        section: Section = copy.deepcopy(draft.models[target])
        if "upstreams" in section:
            section["upstreams"] = [
                {"upstream_model": target, **each} for each in section["upstreams"]
            ]
        else:
            section.setdefault("upstream_model", target)
        draft.models[alias] = section
