"""What the demo tells, step by step, and what it makes sure of at each.

The customer asks through the official SDKs as any program would; the operator's commands are run
as processes, as typed at a shell. Balances are what key holders see (`GET /v1/credits`), events
what the store holds.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, cast

import httpx
from rich.rule import Rule

from gateway.cli.context import open_store
from gateway.cli.output import out, plain
from gateway.domain.delivery import StoredEvent
from gateway.domain.events import USAGE_KINDS
from gateway.domain.money import format_amount, parse_amount

DEMO_KEY: Final = "sk-demo"
POCKET_KEY: Final = "sk-pocket"
"""The keys of `config/demo.yaml`, known to everyone."""
MODEL: Final = "gemma-3-270m"
EMBEDDINGS: Final = "sim-embed"
END_OF_TURN: Final = "<|im_end|>"
"""What this model, which has no chat template of its own, writes where its turn ends."""
SETTLED_WITHIN_S: Final = 20.0
MOST_REQUESTS: Final = 200
LOG_WIDTH: Final = 132
"""Columns of tables where the output is no terminal."""


class DemoFailed(Exception):
    """A step did not do what the story says."""


class Operator:
    """The operator's command line on the demo's gate."""

    def __init__(self, environ: dict[str, str]) -> None:
        width = out.width if out.is_terminal else LOG_WIDTH
        self._environ = {**environ, "COLUMNS": str(width)}
        if out.is_terminal:
            self._environ["FORCE_COLOR"] = "1"

    def run(self, *words: str) -> str:
        """Run `creditgate WORDS`, show it and what it prints. Raises DemoFailed unless it exits 0."""
        typed = " ".join(f'"{word}"' if " " in word else word for word in words)
        out.print(plain("$ ", "dim") + plain(f"creditgate {typed}", "bold"), soft_wrap=True)
        done = subprocess.run(  # noqa: S603 - our own command
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


class Story:
    """The steps, in order."""

    def __init__(self, url: str, operator: Operator, data_dir: Path) -> None:
        """data_dir: of the gate; the store is in it."""
        import anthropic
        import openai

        self._operator = operator
        self._store_path = data_dir / "events.db"
        self._credits = f"{url}/v1/credits"
        self._openai = openai.OpenAI(base_url=f"{url}/v1", api_key=DEMO_KEY)
        self._anthropic = anthropic.Anthropic(base_url=url, api_key=DEMO_KEY)
        self._sent = 0
        self._pocket = openai.OpenAI(
            base_url=f"{url}/v1",
            api_key=POCKET_KEY,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._count]}),
        )
        self._paid_id = self._refused_id = ""

    def tell(self) -> None:
        """Every step. Raises DemoFailed at the first that is not as it should be."""
        import anthropic
        import openai

        try:
            self._tell()
        except (openai.OpenAIError, anthropic.AnthropicError, httpx.HTTPError) as error:
            raise DemoFailed(f"{type(error).__name__}: {error}") from error

    def _tell(self) -> None:
        run = self._operator.run
        _step("The customer's wallet, before anything runs")
        run("wallet", "show", "demo")
        _step("A chat, with OpenAI's SDK")
        self._charged(self._chat)
        _step("A stream")
        self._charged(self._stream)
        _step("A message, with Anthropic's SDK")
        self._charged(self._message)
        _step("The Responses API")
        self._charged(self._response)
        _step("Embeddings (of the simulated provider)")
        self._charged(self._embed)
        _step("A small wallet runs out: 402, and the SDK does not try again")
        self._run_out()
        _step("The operator tops it up, and it works again")
        self._top_up()
        _step("Every request is one event in the store")
        self._wait_settled(POCKET_KEY, "pocket")
        run("events", "tail", "-n", "8")
        _step("Why was that chat allowed, and what did it cost?")
        run("why", self._paid_id)
        _step("Why was that other one refused?")
        run("why", self._refused_id)
        _step("Do all wallets, all shards and the store agree, to the last unit?")
        run("verify")

    # What the customer does

    def _chat(self) -> None:
        raw = self._openai.chat.completions.with_raw_response.create(
            model=MODEL,
            max_tokens=60,
            temperature=0,
            stop=[END_OF_TURN],
            messages=_ask("What is the capital of France?"),
        )
        self._paid_id = raw.headers["x-request-id"]
        said = raw.parse()
        _said(said.choices[0].message.content)
        assert said.usage is not None
        _used(said.usage.prompt_tokens, said.usage.completion_tokens)
        shown = [f"{k}: {v}" for k, v in raw.headers.items() if k.startswith("x-credits-")]
        out.print(plain("\n".join(shown), "dim"))

    def _stream(self) -> None:
        chunks = self._openai.chat.completions.create(
            model=MODEL,
            max_tokens=60,
            stream=True,
            temperature=0,
            stop=[END_OF_TURN],
            messages=_ask("What is the capital of Germany?"),
        )
        for chunk in chunks:
            for choice in chunk.choices:
                out.print(plain(choice.delta.content or "", "green"), end="", soft_wrap=True)
        out.print()

    def _message(self) -> None:
        said = self._anthropic.messages.create(
            model=MODEL,
            max_tokens=60,
            stop_sequences=[END_OF_TURN],
            extra_body={"temperature": 0},
            messages=_ask("What is the capital of Italy?"),
        )
        _said("".join(block.text for block in said.content if block.type == "text"))
        _used(said.usage.input_tokens, said.usage.output_tokens)

    def _response(self) -> None:
        said = self._openai.responses.create(
            model=MODEL,
            max_output_tokens=16,
            temperature=0,
            input=_ask("What is the capital of Japan?", in_parts=True),
        )
        _said(said.output_text.partition(END_OF_TURN)[0])
        assert said.usage is not None
        _used(said.usage.input_tokens, said.usage.output_tokens)

    def _embed(self) -> None:
        said = self._openai.embeddings.create(model=EMBEDDINGS, input=["one text", "another"])
        _said(f"{len(said.data)} vectors of {len(said.data[0].embedding)} numbers")
        _used(said.usage.prompt_tokens, 0)

    def _ask_from_pocket(self) -> None:
        self._pocket.chat.completions.create(
            model=MODEL, max_tokens=24, messages=[{"role": "user", "content": "Hi."}]
        )

    def _run_out(self) -> None:
        import openai

        before, position = self._balance(POCKET_KEY), self._position("pocket")
        out.print(plain(f"the balance of pocket is {format_amount(before)}"))
        for number in range(1, MOST_REQUESTS):
            self._sent = 0
            try:
                self._ask_from_pocket()
            except openai.APIStatusError as refused:
                if refused.status_code != 402 or self._sent != 1:
                    raise DemoFailed(
                        f"expected one 402, got {refused.status_code} after {self._sent} attempts"
                    ) from refused
                self._refused_id = refused.response.headers["x-request-id"]
                answered = f"request {number}: {refused.status_code}, sent {self._sent} time"
                out.print(plain(answered, "bold red"))
                out.print(plain(refused.message, "red"))
                self._compare("pocket", before, position, self._wait_settled(POCKET_KEY, "pocket"))
                return
            out.print(plain(f"request {number}: 200", "green"))
        raise DemoFailed(f"the small wallet has not run out after {MOST_REQUESTS} requests")

    def _top_up(self) -> None:
        top_up = ("wallet", "grant", "pocket", "0.05", "--name", "top-up", "--key", "payment-1")
        self._operator.run(*top_up)
        granted = self._balance(POCKET_KEY)
        out.print(plain("\nThe same payment, told once more, grants nothing more:", "dim"))
        self._operator.run(*top_up)
        if self._balance(POCKET_KEY) != granted:
            raise DemoFailed("a top-up with the same key was granted twice")
        position = self._position("pocket")
        self._ask_from_pocket()
        out.print(plain("\nthe same request: 200", "bold green"))
        self._compare("pocket", granted, position, self._wait_settled(POCKET_KEY, "pocket"))
        self._operator.run("wallet", "show", "pocket")

    def _count(self, _: httpx.Request) -> None:
        self._sent += 1

    # What must be true

    def _charged(self, ask: Callable[[], None]) -> None:
        """Run a request of the demo's customer; its balance must move by what is in the store."""
        before, position = self._balance(DEMO_KEY), self._position("demo")
        ask()
        self._compare("demo", before, position, self._wait_settled(DEMO_KEY, "demo", position))

    def _compare(self, customer: str, before: int, position: int, after: int) -> None:
        events = self._events(customer, position)
        charged = sum(stored.event.amount_nano for stored in events)
        moved = f"balance {format_amount(before)} → {format_amount(after)}: "
        says = f"{len(events)} events say" if len(events) > 1 else "the event says"
        out.print(
            plain(moved)
            + plain(f"{format_amount(before - after)} less", "bold")
            + plain(f", and {says} {format_amount(charged)}")
        )
        if before - after != charged or charged <= 0:
            raise DemoFailed("the balance has not moved by what was settled")

    def _wait_settled(self, key: str, customer: str, position: int = 0) -> int:
        """The balance, once nothing is held and the store has what made it, beyond a position."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while time.monotonic() < deadline:
            wallet = self._wallet(key)
            latest = self._latest(customer)
            balance = parse_amount(wallet["balance"], signed=True)
            if (
                wallet["held"] == "0"
                and latest is not None
                and latest.position > position
                and latest.event.balance_nano == balance
            ):
                return balance
            time.sleep(0.05)
        raise DemoFailed(f"not settled and stored within {SETTLED_WITHIN_S:.0f} s")

    def _balance(self, key: str) -> int:
        return parse_amount(self._wallet(key)["balance"], signed=True)

    def _wallet(self, key: str) -> dict[str, str]:
        answer = httpx.get(
            self._credits, headers={"authorization": f"Bearer {key}"}, trust_env=False
        )
        return cast("dict[str, str]", answer.raise_for_status().json()["data"])

    def _latest(self, customer: str) -> StoredEvent | None:
        with closing(open_store(self._store_path)) as store:
            return next(iter(store.latest(1, customer_id=customer)), None)

    def _position(self, customer: str) -> int:
        latest = self._latest(customer)
        return latest.position if latest else 0

    def _events(self, customer: str, position: int) -> list[StoredEvent]:
        """The customer's usage events beyond a position of the store."""
        with closing(open_store(self._store_path)) as store:
            found = store.latest(10 * MOST_REQUESTS, customer_id=customer, after=position)
        return [stored for stored in found if stored.event.kind in USAGE_KINDS]


def _step(title: str) -> None:
    out.print()
    out.print(Rule(plain(title, "bold"), align="left"))


def _ask(question: str, *, in_parts: bool = False) -> Any:
    """A question after one that was answered: so small a model needs to be shown.

    in_parts: the answer as the Responses API has it
    """
    shown = "The capital of Spain is Madrid."
    answer: Any = [{"type": "output_text", "text": shown}] if in_parts else shown
    return [
        {"role": "user", "content": "What is the capital of Spain?"},
        {"role": "assistant", "content": answer, **({"type": "message"} if in_parts else {})},
        {"role": "user", "content": question},
    ]


def _said(text: str | None) -> None:
    out.print(plain((text or "").strip(), "green"))


def _used(input_tokens: int, output_tokens: int) -> None:
    out.print(plain(f"{input_tokens} tokens in, {output_tokens} out", "dim"))
