"""The operator of the demo: runs `creditgate` commands and shows them with their output."""

import subprocess
import sys
from typing import Final

from rich.console import Console
from rich.text import Text

LOG_WIDTH: Final = 132
"""Columns of tables where the output is not a terminal."""


class DemoFailed(Exception):
    """A step of the demo failed its check."""


class Operator:
    """The operator's command line on the demo's gate."""

    def __init__(self, environ: dict[str, str], console: Console) -> None:
        """environ: names the gate's configuration. console: shows commands and their output"""
        self.console = out = console
        width = out.width if out.is_terminal else LOG_WIDTH
        self._environ = {**environ, "COLUMNS": str(width)}
        if out.is_terminal:
            self._environ["FORCE_COLOR"] = "1"

    def run(self, *words: str) -> str:
        """Run `creditgate WORDS`, show it and what it prints. Raises DemoFailed unless it exits 0."""
        out = self.console
        typed = " ".join(f'"{word}"' if " " in word else word for word in words)
        out.print(plain("$ ", "dim") + plain(f"creditgate {typed}", "bold"), soft_wrap=True)
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", *words],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        out.file.write(done.stdout)  # it is coloured already, if at all
        out.file.flush()
        if done.returncode != 0:
            raise DemoFailed(
                f"creditgate {words[0]} ended with {done.returncode}: {done.stderr.strip()}"
            )
        return done.stdout


def plain(text: object, style: str = "") -> Text:
    """Text that is not read as markup."""
    return Text(str(text), style=style)
