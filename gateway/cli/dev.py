"""`dev`: a complete gate on this machine: embedded ledger, simulated provider, two customers."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer
from rich.console import Console
from rich.text import Text

from gateway.app.parts import CannotStart
from gateway.app.run import run_gate
from gateway.app.sign_in_links import link_at
from gateway.app.stores import store_access
from gateway.app.supervisor import Running
from gateway.cli import app, dev_state
from gateway.cli.serve import explained, gate_url
from gateway.settings import Settings
from loadtest import child
from loadtest.faults import BadControl, Controls, parse_controls

DATA_DIR: Final = Path("data/dev")
PROVIDER_STARTS_WITHIN_S: Final = 20.0
_KEYS: Final = {"demo": "sk-demo", "broke": "sk-broke"}
"""The keys of `config/dev.yaml`, known to everyone."""

console = Console()


@app.command()
def dev(
    data_dir: Annotated[
        Path,
        typer.Option(
            envvar="CREDITGATE_DATA_DIR",
            help="Wallets, events and the admin token; they survive restarts.",
        ),
    ] = DATA_DIR,
    port: Annotated[int, typer.Option(help="Port of the gate; 0 takes a free one.")] = 8080,
    admin_port: Annotated[
        int, typer.Option(help="Port of the admin side; 0 takes a free one.")
    ] = 8081,
    console_port: Annotated[
        int, typer.Option(help="Port of the console; 0 takes a free one.")
    ] = 8082,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=64)] = 1,
    sim: Annotated[
        str, typer.Option(help="How the provider answers: 'ttft_ms=lognormal:200:0.4 itl_ms=15'.")
    ] = "",
) -> None:
    """Try it: the gate on this machine with a simulated provider and a funded customer."""
    try:
        parse_controls(Controls(), sim)
    except BadControl as error:
        raise typer.BadParameter(str(error), param_hint="--sim") from None
    with explained(), simulated_provider(sim) as provider_url:
        os.environ |= {
            "SIM_URL": provider_url,
            "CREDITGATE_PORT": str(port),
            "CREDITGATE_ADMIN_PORT": str(admin_port),
            "CREDITGATE_CONSOLE_PORT": str(console_port),
            "CREDITGATE_DATA_DIR": str(data_dir),
            "CREDITGATE_WORKERS": str(workers),
        }
        with dev_state.kept(data_dir):
            run_gate(config_folder() / "dev.yaml", partial(_show, provider_url))
    console.print("Stopped; nothing is left running. The wallets are kept in", str(data_dir))


def config_folder() -> Path:
    """Where the sample configurations lie: in the installed package, or next to it in a checkout."""
    installed = Path(__file__).parents[1] / "_config"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "config"


@contextmanager
def simulated_provider(sim: str = "") -> Iterator[str]:
    """The simulated provider in a child process that ends with this one; yields its URL.

    sim: controls of every answer, see `loadtest/faults.py`

    It runs in a separate session, so that Ctrl-C does not cut the answers that a drain waits for.
    Raises CannotStart.
    """
    tied = [sys.executable, "-m", "gateway.app.parent", str(os.getpid())]
    command = [*tied, "loadtest.provider", "--port", "0", "--sim", sim]
    with child.running(command, patience_s=5, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], PROVIDER_STARTS_WITHIN_S)
        url = process.stdout.readline().strip() if readable else ""
        if not url:
            raise CannotStart("the simulated provider does not start")
        yield url


async def _show(provider_url: str, settings: Settings, running: Running) -> None:
    url = gate_url(running)
    dev_state.write(settings.data_dir, dev_state.DevGate(url, provider_url, os.getpid()))
    admin = f"http://{running.admin}"
    token_file = settings.data_dir / "admin.token"
    _say("creditgate serves at", url, style="bold green")
    console.print()
    _curl("a chat", _chat(url, "demo"))
    _curl("a stream", _chat(url, "demo", stream=True))
    _curl("a refusal before anything runs (this customer has no credit)", _chat(url, "broke"))
    _curl("what the key's wallet holds", _with_key(url, "demo", "/v1/credits"))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for customer, key in _KEYS.items():
            answer = await client.get("/v1/credits", headers={"authorization": f"Bearer {key}"})
            wallet = answer.json()["data"]
            _say(f"balance of {customer:6}", f"{wallet['balance']} credits")
    _say("events land in", store_access(settings).shown)
    console.print()
    _curl(
        "metrics",
        f'curl -s {admin}/metrics -H "Authorization: Bearer $(cat {token_file})"',
    )
    _curl("put load on it, from a second terminal in this folder", _load_test(settings.data_dir))
    if running.console:
        link = await link_at(settings, running.ledger_url, running.console)
        _say("the console, with a link that signs you in once, within the hour:", link)
        console.print()
    console.print("Ctrl-C drains and stops.", style="dim")


def _load_test(data_dir: Path) -> str:
    if data_dir == DATA_DIR and Path("Makefile").is_file():
        return "make loadtest"
    return f"creditgate loadtest --data-dir {data_dir}"


def _chat(url: str, customer: str, *, stream: bool = False) -> str:
    body = '{"model":"sim-small","max_tokens":64,"messages":[{"role":"user","content":"Hello!"}]}'
    if stream:
        body = body.replace('"max_tokens"', '"stream":true,"max_tokens"')
    asked = _with_key(url, customer, "/v1/chat/completions")
    return f"{asked} -H 'Content-Type: application/json' -d '{body}'"


def _with_key(url: str, customer: str, path: str) -> str:
    silent = "-sN" if path.startswith("/v1/chat") else "-s"
    return f"curl {silent} {url}{path} -H 'Authorization: Bearer {_KEYS[customer]}'"


def _say(what: str, value: str, style: str = "bold") -> None:
    console.print(Text(f"{what} ") + Text(value, style=style), soft_wrap=True)


def _curl(what: str, line: str) -> None:
    console.print(Text(f"# {what}", style="dim"), soft_wrap=True)
    console.print(Text(line), soft_wrap=True)
    console.print()
