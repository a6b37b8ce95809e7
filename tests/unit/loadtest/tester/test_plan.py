"""Plans: a file and flags, and all their mistakes at once."""

from pathlib import Path

import pytest

from loadtest.tester.plan import Flag, PlanError, load_plan

ROOT = Path(__file__).parents[4]

NEEDED = (
    Flag(("url",), "URL", "http://127.0.0.1:1/v1"),
    Flag(("requests", "models"), "--model", [{"model": "m"}]),
    Flag(("requests", "keys"), "--key", [{"key": "k"}]),
)


def problems(file: Path | None, *flags: Flag) -> list[str]:
    with pytest.raises(PlanError) as raised:
        load_plan(file, flags)
    return raised.value.problems


def written(folder: Path, text: str) -> Path:
    file = folder / "plan.yaml"
    file.write_text(text)
    return file


def test_the_sample_is_right_and_says_what_dev_offers() -> None:
    plan = load_plan(
        ROOT / "config/loadtest.yaml", [], lambda url: [Flag(("url",), "", "http://127.0.0.1:8080")]
    )
    assert plan.load.rate == 200
    assert (plan.load.duration, plan.load.warmup) == (30, 5)
    dev = (ROOT / "config/dev.yaml").read_text()
    for name in (*(m.model for m in plan.requests.models), *("sk-load", "sk-broke")):
        assert name in dev
    assert [target.text for target in plan.targets][-1] == "rate>=190"


def test_every_mistake_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "url: http://127.0.0.1:8080\n"
        "load:\n  rate: fast\n  duration: 10 parsecs\n  wormup: 3s\n"
        "requests:\n  models: [{model: m, stream: 2}]\n  prompt_tokens: normal:1\n"
        "targets: [p99<25]\n",
    )
    told = problems(file)
    places = {problem.split(": ")[0].removeprefix(f"{file}:").split(":")[0] for problem in told}
    assert places == {"3", "4", "5", "7", "8", "9"}
    assert any("load.wormup" in problem and "'warmup'" in problem for problem in told)
    assert any("targets[0]" in problem and "unit of time" in problem for problem in told)


def test_a_mistake_on_the_command_line_is_told_by_its_flag() -> None:
    told = problems(
        None,
        *NEEDED,
        Flag(("load", "rate"), "--rate", "-3"),
        Flag(("targets",), "--target", ["p99<25ms", "p99"]),
    )
    assert [problem.partition(":")[0] for problem in told] == ["--rate", "--target"]


def test_a_flag_wins_over_the_file_and_another_shape_replaces_its_shape(tmp_path: Path) -> None:
    file = written(tmp_path, "load: {rate: 5, duration: 1m30s}\ntargets: [p50<1s]\n")
    plan = load_plan(
        file,
        [
            *NEEDED,
            Flag(("load", "steps"), "--steps", ["1", "2"]),
            Flag(("targets",), "-t", ["p99<1s"]),
        ],
    )
    assert (plan.load.rate, plan.load.steps, plan.load.duration) == (None, (1, 2), 90)
    assert [target.text for target in plan.targets] == ["p99<1s"]


def test_two_shapes_in_one_place_exclude_each_other(tmp_path: Path) -> None:
    [told] = problems(written(tmp_path, "load: {rate: 5, connections: 3}\n"), *NEEDED)
    assert "rate and connections exclude each other" in told


@pytest.mark.parametrize(("left_out", "says"), [(0, "gate"), (1, "model"), (2, "key")])
def test_what_a_plan_cannot_do_without_is_named(left_out: int, says: str) -> None:
    flags = [flag for number, flag in enumerate(NEEDED) if number != left_out]
    [told] = problems(None, *flags)
    assert f"names no {says}" in told


def test_a_search_needs_targets() -> None:
    [told] = problems(None, *NEEDED, Flag(("load", "search"), "--search", "10..100"))
    assert "a search needs targets" in told


def test_defaults_stand_only_where_nothing_is_said() -> None:
    asked: list[object] = []

    def defaults(url: object) -> list[Flag]:
        asked.append(url)
        return [
            Flag(("requests", "keys"), "", [{"key": "d"}]),
            Flag(("requests", "simulate"), "", ""),
        ]

    plan = load_plan(None, NEEDED, defaults)
    assert asked == ["http://127.0.0.1:1/v1"]
    assert plan.requests.keys[0].key.get_secret_value() == "k"
    assert plan.requests.simulate == ""


def test_a_secret_is_filled_in_and_never_told(tmp_path: Path) -> None:
    file = written(tmp_path, "requests: {keys: [{key: '${K}'}]}\nload: {rate: x}\n")
    with pytest.raises(PlanError) as raised:
        load_plan(file, NEEDED[:2], environ={"K": "sk-very-secret"})
    assert "sk-very-secret" not in str(raised.value)
