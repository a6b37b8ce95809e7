"""Whether the gate takes what a deployment gives it: its configuration and its command lines."""

from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from gateway.settings import Settings, load_settings
from tests.docs.test_commands import problem

SECRETS = {
    "admin-token": "a-token-of-thirty-two-characters",
    "key-pepper": "a-pepper-of-thirty-two-characters",
    "link-secret": "a-secret-of-thirty-two-characters",
    "upstream-key": "sk-upstream",
    "postgres-url": "postgresql://gate:secret@db.internal/creditgate",
    "redis-url": "rediss://gate:secret@redis.internal:6379/0",
}
"""Values for the keys of the Secret."""


def settings_in(folder: Path, text: str, environment: Mapping[str, str]) -> Settings:
    """What a process with this environment reads, of a configuration with its secrets as files below.

    Raises SettingsError.
    """
    secrets = folder / "secrets"
    secrets.mkdir(parents=True, exist_ok=True)
    for name, value in SECRETS.items():
        (secrets / name).write_text(f"{value}\n")
    config = folder / "gateway.yaml"
    config.write_text(text)
    with mock.patch.dict("os.environ", environment, clear=True):
        return load_settings(config)


def command_problem(words: list[str]) -> str | None:
    """What is wrong with the arguments of `creditgate`; None if it has such a command."""
    return problem(" ".join(["creditgate", *words]))
