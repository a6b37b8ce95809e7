"""The configurations on the pages of the message brokers load, and are what the pages say."""

import re
from pathlib import Path

import pytest

from gateway.exporter.sinks.options import KafkaOptions, NatsOptions
from gateway.settings import load_settings

ROOT = Path(__file__).parents[2]
RIGHT = """\
upstreams:
  sim: {base_url: http://127.0.0.1:9}
models:
  small: {upstream: sim, max_output_tokens: 1024, prices: {input: "0.50", output: "2.00"}}
"""


def page(name: str) -> str:
    return (ROOT / "docs/how-to/sinks" / name).read_text()


@pytest.mark.parametrize(("name", "kind"), [("kafka.md", KafkaOptions), ("nats.md", NatsOptions)])
def test_the_configuration_of_the_page_loads(tmp_path: Path, name: str, kind: type) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", page(name), re.DOTALL)
    (tmp_path / "kafka-ca.pem").write_text("-")
    file = tmp_path / "gateway.yaml"
    file.write_text(RIGHT + block)
    settings = load_settings(file, {"KAFKA_PASSWORD": "secret", "NATS_PASSWORD": "secret"})
    (options,) = settings.export.optional_sinks(tmp_path).values()
    assert type(options) is kind


def test_the_window_of_the_command_is_long_enough_for_the_configuration() -> None:
    text = page("nats.md")
    ((minutes,), (age_ms,)) = (
        re.findall(r"--dupe-window (\d+)m", text),
        re.findall(r"max_replay_age_ms: (\d+)", text),
    )
    assert int(minutes) * 60_000 >= int(age_ms) + 60_000
