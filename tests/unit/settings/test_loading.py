"""From a file to settings, or to every mistake in it."""

import hashlib
import pickle
from pathlib import Path

import pytest

from gateway.settings import SettingsError, load_settings
from tests.unit.settings.conftest import RIGHT, Load, Problems

BAD = Path(__file__).parents[3] / "config" / "bad"
HASH = hashlib.sha256(b"a key").hexdigest()


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_each_bad_file_is_told_as_written_beside_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(SettingsError) as caught:
        load_settings(f"{name}.yaml", {"SECRET": "hunter2"})
    told = "".join(f"{problem}\n" for problem in caught.value.problems)
    assert told == Path(f"{name}.expected").read_text()


def test_the_error_counts_and_lists_its_problems(problems: Problems, load: Load) -> None:
    with pytest.raises(SettingsError, match="2 problems in the configuration"):
        load("listen: {port: x, prot: 1}\n")
    with pytest.raises(SettingsError, match=r"1 problem in .*\n  .*gateway.yaml:5:10: listen.port"):
        load("listen: {port: x}\n")


def test_numbers_may_come_from_the_environment(load: Load) -> None:
    settings = load('listen: {port: "${PORT}", workers: "${WORKERS:-3}"}\n', PORT="9000")
    assert (settings.listen.port, settings.listen.workers) == (9000, 3)


def test_a_price_written_as_a_plain_number_is_read_exactly(load: Load) -> None:
    settings = load(start=RIGHT.replace('"0.50"', "0.1").replace('"2.00"', "3"))
    table = settings.models["small"].price_table("small")
    assert table.rates_pico == {"input": 100_000, "output": 3_000_000}


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(tmp_path / "none.yaml")


def test_the_digest_ignores_comments_order_and_layout(load: Load) -> None:
    one = load("admin: {port: 9}\nlisten: {port: 8}\n")
    two = load('# said otherwise\nlisten:\n  port: "8"\nadmin:\n  port: 9\n')
    assert one.digest == two.digest


def test_the_digest_follows_values_environment_key_files_and_certificates(
    load: Load, tmp_path: Path
) -> None:
    keys, ca = tmp_path / "keys.txt", tmp_path / "ca.pem"
    keys.write_text(f"{HASH} k_1\n")
    ca.write_text("one")
    start = RIGHT.replace("127.0.0.1:9}", "127.0.0.1:9, tls: {ca_file: ca.pem}}")
    more = 'listen: {port: "${PORT}"}\ncustomers: {demo: {key_files: [keys.txt]}}\n'
    digests = [load(more, start=start, PORT="1").digest, load(more, start=start, PORT="2").digest]
    keys.write_text(f"{HASH} k_2\n")
    digests.append(load(more, start=start, PORT="2").digest)
    ca.write_text("two")
    digests.append(load(more, start=start, PORT="2").digest)
    assert len(set(digests)) == 4
    assert digests[3] == load(more, start=start, PORT="2").digest


def test_files_names_everything_that_was_read(load: Load, tmp_path: Path) -> None:
    for name in ("keys.txt", "token", "ca.pem"):
        (tmp_path / name).write_text("0123456789abcdef" if name == "token" else "")
    start = RIGHT.replace("127.0.0.1:9}", "127.0.0.1:9, tls: {ca_file: ca.pem}}")
    settings = load(
        'admin: {token: "${file:token}"}\ncustomers: {demo: {key_files: [keys.txt]}}\n', start=start
    )
    assert {path.name for path in settings.files} == {"gateway.yaml", "keys.txt", "token", "ca.pem"}


def test_settings_are_frozen_and_survive_pickling(load: Load) -> None:
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.listen.port = 1
    settings.models["small"].price_table("small")
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert (again.digest, again.files) == (settings.digest, settings.files)


def test_a_secret_is_in_no_repr_and_in_no_problem(load: Load, problems: Problems) -> None:
    settings = load(
        'admin: {token: "${TOKEN}"}\nredis: "redis://gate:${REDIS}@127.0.0.1:1"\n',
        TOKEN="canary-0123456789",
        REDIS="canary-redis",
    )
    assert "canary" not in repr(settings)
    assert "canary" not in settings.redis.shown_url
    for wrong in (
        'listen: {port: "${TOKEN}"}',
        'listen: {host: ["${TOKEN}"]}',
        'admin: {token: "${TOKEN}"}',
        'redis: "${TOKEN}"',
        'redis: "redis://u:${TOKEN}@:x"',
        'policy: {preset: "${TOKEN}"}',
        'customers: {demo: {plan: "${TOKEN}", keys: [{sha256: "${TOKEN}"}]}}',
        'customers: {demo: {grants: [{name: a, amount: "${TOKEN}"}]}}',
        'routes: {a: {path: "${TOKEN}", dialect: "${TOKEN}", upstream: "${TOKEN}", free: true}}',
    ):
        found = problems(wrong, TOKEN="canary#@/")
        assert "canary" not in str(found), wrong


def test_a_mistake_does_not_hide_that_something_else_does_not_fit(problems: Problems) -> None:
    found = problems(
        "listen: {port: x}\n"
        "plans: {starter: {credit_limit: lots}}\n"
        "customers: {demo: {plan: started, models: [smal], livemode: 3}}\n"
    )
    assert [problem.path for problem in found] == [
        "listen.port",
        "plans.starter.credit_limit",
        "customers.demo.plan",
        "customers.demo.models[0]",
        "customers.demo.livemode",
    ]


def test_what_hangs_on_a_mistake_is_not_told_as_another(problems: Problems) -> None:
    """The upstream is wrong inside, yet it is there: the model that names it has no error."""
    start = RIGHT.replace("http://127.0.0.1:9", "nowhere")
    assert [p.path for p in problems(start=start)] == ["upstreams.sim.base_url"]


def test_every_single_removal_and_misspelling_is_told_without_a_fault(load: Load) -> None:
    """Whatever one damages in a full sample, the answer is settings or problems, nothing else."""
    sample = (BAD.parent / "gateway.yaml").read_text().splitlines(keepends=True)
    environ = {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b"}
    told: list[SettingsError] = []
    for number, line in enumerate(sample):
        for damage in (
            "",
            line.replace(":", "x:", 1),
            line.replace("  ", " ", 1),
            line[:-3] + "\n",
        ):
            try:
                load(
                    "".join([*sample[:number], damage, *sample[number + 1 :]]), start="", **environ
                )
            except SettingsError as error:
                told.append(error)
    assert len(told) > len(sample)
    assert all(error.problems for error in told)
    assert all(problem.line >= 1 for error in told for problem in error.problems)
