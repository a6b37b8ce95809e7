"""A configuration that is right, to be made wrong by each test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.settings import Problem, Settings, SettingsError, load_settings

RIGHT = """\
upstreams:
  sim: {base_url: http://127.0.0.1:9}
models:
  small: {upstream: sim, max_output_tokens: 1024, prices: {input: "0.50", output: "2.00"}}
"""

Load = Callable[..., Settings]
Problems = Callable[..., list[Problem]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load RIGHT followed by more YAML, with an environment of its own."""

    def load(more: str = "", *, start: str = RIGHT, **environ: str) -> Settings:
        file = tmp_path / "gateway.yaml"
        file.write_text(start + more)
        return load_settings(file, environ)

    return load


@pytest.fixture
def problems(load: Load) -> Problems:
    """What is wrong with RIGHT followed by more YAML."""

    def problems(more: str = "", *, start: str = RIGHT, **environ: str) -> list[Problem]:
        with pytest.raises(SettingsError) as caught:
            load(more, start=start, **environ)
        return caught.value.problems

    return problems
