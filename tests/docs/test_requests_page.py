"""docs/reference/requests.md: its configurations are valid, and its words are those of the gate."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.dialects.anthropic.messages import TOOLS as ANTHROPIC_TOOLS
from gateway.dialects.base import INLINE_IMAGE_TOKENS
from gateway.dialects.fields import SCOPED
from gateway.dialects.openai.responses import TOOLS as RESPONSES_TOOLS
from gateway.settings import load_settings
from tests.support.gate import gate_config

PAGE = (Path(__file__).parents[2] / "docs/reference/requests.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_each_configuration_is_valid(tmp_path: Path, block: str) -> None:
    shown: dict[str, Any] = yaml.safe_load(block)
    file = tmp_path / "gateway.yaml"
    ledger = f"unix://{tmp_path}/ledger"
    file.write_text(yaml.safe_dump(gate_config("http://127.0.0.1:1", tmp_path, ledger, **shown)))
    settings = load_settings(file)
    if "policy" in shown:
        tokens = settings.policy.media_tokens
        assert tokens == {"image": 1600, "document": 60_000, "video": 300_000}
    else:
        assert settings.routes["chat"].extra_fields == ("min_tokens", "priority")


def test_the_page_names_what_is_scoped_and_what_the_caller_runs() -> None:
    for name in SCOPED:
        assert f"`{name}`" in PAGE
    for family in ANTHROPIC_TOOLS.described | RESPONSES_TOOLS.own | RESPONSES_TOOLS.described:
        word = family.removesuffix("_toolset").removesuffix("_use_preview").replace("_", " ")
        assert word in PAGE.replace("_", " ").replace("functions", "function")
    assert f"{INLINE_IMAGE_TOKENS:,}" in PAGE
