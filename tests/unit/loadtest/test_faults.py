"""Controls of the simulated provider: the same names in every place, misspelt ones refused."""

import random
import statistics

import pytest

from loadtest.faults import (
    BadControl,
    Controls,
    Dist,
    controls_of_document,
    parse_controls,
    parse_dist,
)


def test_text_and_json_say_the_same() -> None:
    text = parse_controls(Controls(), "tokens=5 cut=3 ttft_ms=20 close=1 tag=a")
    json = parse_controls(Controls(), '{"tokens":5,"cut":3,"ttft_ms":20,"close":true,"tag":"a"}')
    assert text == json
    assert (text.tokens, text.cut, text.close) == (Dist("fixed", 5), 3, True)


@pytest.mark.parametrize(
    "text",
    ["token=5", "tokens", "tokens=-1", "tokens=normal:1:2", "cut=x", "hang=there", "rate=2", "{"],
)
def test_an_unknown_control_or_value_is_refused(text: str) -> None:
    with pytest.raises(BadControl):
        parse_controls(Controls(), text)


def test_the_last_line_of_the_message_wins_over_metadata_and_user() -> None:
    document = {"user": "sim: tokens=1 cached=1 tag=u", "metadata": {"sim": "tokens=2 cached=2"}}
    controls = controls_of_document(Controls(), document, "Write a story.\nsim: tokens=3")
    assert (controls.tokens.a, controls.cached, controls.tag) == (3, 2, "u")


def test_a_message_that_only_mentions_the_prefix_controls_nothing() -> None:
    assert controls_of_document(Controls(), {"user": "simon"}, "what is sim: x?") == Controls()


def test_healthy_keeps_amounts_and_delays_and_drops_every_fault() -> None:
    given = parse_controls(
        Controls(),
        "tokens=5 reasoning=2 itl_ms=3 tag=t status=500 body=x retry_after=1 hang=before_head "
        "rst=after_head cut=1 cut_how=fin error_at=2 usage=huge length=long coding=br drip=1 "
        "drip_ms=2 close=1 drop=1 stale=1",
    )
    kept = parse_controls(Controls(), "tokens=5 reasoning=2 itl_ms=3 tag=t")
    assert given.healthy() == kept


@pytest.mark.parametrize(
    ("text", "middle"),
    [("7", 7), ("uniform:10:30", 20), ("exp:10", 6.93), ("lognormal:150:0.5", 150)],
)
def test_a_distribution_has_the_median_it_says(text: str, middle: float) -> None:
    rng = random.Random(1)
    dist = parse_dist(text)
    drawn = [dist.draw(rng) for _ in range(4000)]
    assert statistics.median(drawn) == pytest.approx(middle, rel=0.06)
    assert min(drawn) >= 0
