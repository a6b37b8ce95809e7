"""Presets and the knobs that differ from them."""

from dataclasses import fields

from gateway.settings.policy import PRESETS, Knobs, PolicySection
from tests.unit.settings.conftest import Load


def test_the_section_has_every_knob_and_a_preset() -> None:
    assert set(PolicySection.model_fields) == {"preset"} | {knob.name for knob in fields(Knobs)}


def test_balanced_is_the_default(load: Load) -> None:
    assert load().knobs() == PRESETS["balanced"]


def test_a_knob_differs_from_its_preset_alone(load: Load) -> None:
    knobs = load("policy: {preset: strict, drain_max_ms: 5, insufficient_status: 429}\n").knobs()
    differing = {
        k.name
        for k in fields(Knobs)
        if getattr(knobs, k.name) != getattr(PRESETS["strict"], k.name)
    }
    assert differing == {"drain_max_ms", "insufficient_status"}
    assert knobs.insufficient_status == 429


def test_a_route_starts_from_the_general_policy_or_from_a_preset_of_its_own(load: Load) -> None:
    settings = load(
        "policy: {hold_output_tokens: 77}\n"
        "routes:\n"
        "  one: {path: /v1/one, dialect: openai_chat, policy: {answer_cost_header: false}}\n"
        "  two: {path: /v1/two, dialect: openai_chat, policy: {preset: generous}}\n"
    )
    one, two = settings.knobs(settings.routes["one"]), settings.knobs(settings.routes["two"])
    assert (one.hold_output_tokens, one.answer_cost_header) == (77, False)
    assert two == PRESETS["generous"]


def test_reserve_max_holds_the_whole_bound() -> None:
    assert PRESETS["strict"].flow().hold_output_tokens is None
    assert PRESETS["balanced"].flow().hold_output_tokens == 4096
    assert PRESETS["strict"].flow().exhausted_stream == "cut"
    assert PRESETS["generous"].flow().exhausted_stream == "finish"
