"""The steps of the demo, and the check that each one makes.

The customer sends requests through the official SDKs as any program would; the operator's commands
run as processes, as typed at a shell. Balances are what key holders see (`GET /v1/credits`), events
what the store holds.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, cast

import httpx
from rich.rule import Rule

from gateway.domain.delivery import StoredEvent
from gateway.domain.events import USAGE_KINDS
from gateway.domain.money import format_amount, parse_amount
from gateway.domain.stores import StoreMissing
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from loadtest.demo.operator import DemoFailed, Operator, plain

DEMO_KEY: Final = "sk-demo"
POCKET_KEY: Final = "sk-pocket"
"""The keys of `config/demo.yaml`, known to everyone."""
MODEL: Final = "gemma-3-270m"
EMBEDDINGS: Final = "sim-embed"
END_OF_TURN: Final = "<|im_end|>"
"""What this model, which has no chat template of its own, writes where its turn ends."""
SETTLED_WITHIN_S: Final = 20.0
MOST_REQUESTS: Final = 200


class Story:
    """The steps, in order."""

    def __init__(self, url: str, operator: Operator, data_dir: Path) -> None:
        """data_dir: of the gate; the store is in it."""
        import anthropic
        import openai

        self._operator = operator
        self._out = operator.console
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

    def run(self) -> None:
        """Run every step. Raises DemoFailed at the first whose check fails."""
        import anthropic
        import openai

        try:
            self._run()
        except (openai.OpenAIError, anthropic.AnthropicError, httpx.HTTPError) as error:
            raise DemoFailed(f"{type(error).__name__}: {error}") from error

    def _run(self) -> None:
        run = self._operator.run
        self._step("The customer's wallet, before anything runs")
        run("wallet", "show", "demo")
        self._step("A chat, with OpenAI's SDK")
        self._charged(self._chat)
        self._step("A stream")
        self._charged(self._stream)
        self._step("A message, with Anthropic's SDK")
        self._charged(self._message)
        self._step("The Responses API")
        self._charged(self._response)
        self._step("Embeddings (of the simulated provider)")
        self._charged(self._embed)
        self._step("A small wallet runs out: 402, and the SDK does not try again")
        self._run_out()
        self._step("The operator tops it up, and it works again")
        self._top_up()
        self._step("Every request is one event in the store")
        self._wait_settled(POCKET_KEY, "pocket")
        run("events", "tail", "-n", "8")
        self._step("Why was that chat allowed, and what did it cost?")
        run("why", self._paid_id)
        self._step("Why was that other one refused?")
        run("why", self._refused_id)
        self._step("Do all wallets, all shards and the store agree, to the last unit?")
        run("verify")

    # The customer's side

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
        self._said(said.choices[0].message.content)
        assert said.usage is not None
        self._used(said.usage.prompt_tokens, said.usage.completion_tokens)
        shown = [f"{k}: {v}" for k, v in raw.headers.items() if k.startswith("x-credits-")]
        self._out.print(plain("\n".join(shown), "dim"))

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
                self._out.print(plain(choice.delta.content or "", "green"), end="", soft_wrap=True)
        self._out.print()

    def _message(self) -> None:
        said = self._anthropic.messages.create(
            model=MODEL,
            max_tokens=60,
            stop_sequences=[END_OF_TURN],
            extra_body={"temperature": 0},
            messages=_ask("What is the capital of Italy?"),
        )
        self._said("".join(block.text for block in said.content if block.type == "text"))
        self._used(said.usage.input_tokens, said.usage.output_tokens)

    def _response(self) -> None:
        said = self._openai.responses.create(
            model=MODEL,
            max_output_tokens=16,
            temperature=0,
            input=_ask("What is the capital of Japan?", in_parts=True),
        )
        self._said(said.output_text.partition(END_OF_TURN)[0])
        assert said.usage is not None
        self._used(said.usage.input_tokens, said.usage.output_tokens)

    def _embed(self) -> None:
        said = self._openai.embeddings.create(model=EMBEDDINGS, input=["one text", "another"])
        self._said(f"{len(said.data)} vectors of {len(said.data[0].embedding)} numbers")
        self._used(said.usage.prompt_tokens, 0)

    def _ask_from_pocket(self) -> None:
        self._pocket.chat.completions.create(
            model=MODEL, max_tokens=24, messages=[{"role": "user", "content": "Hi."}]
        )

    def _run_out(self) -> None:
        import openai

        before, position = self._balance(POCKET_KEY), self._position("pocket")
        self._out.print(plain(f"the balance of pocket is {format_amount(before)}"))
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
                self._out.print(plain(answered, "bold red"))
                self._out.print(plain(refused.message, "red"))
                self._compare("pocket", before, position, self._wait_settled(POCKET_KEY, "pocket"))
                return
            self._out.print(plain(f"request {number}: 200", "green"))
        raise DemoFailed(f"the small wallet has not run out after {MOST_REQUESTS} requests")

    def _top_up(self) -> None:
        top_up = ("wallet", "grant", "pocket", "0.05", "--name", "top-up", "--key", "payment-1")
        self._operator.run(*top_up)
        granted = self._balance(POCKET_KEY)
        self._out.print(plain("\nThe same payment again grants nothing more:", "dim"))
        self._operator.run(*top_up)
        if self._balance(POCKET_KEY) != granted:
            raise DemoFailed("a top-up with the same key was granted twice")
        position = self._position("pocket")
        self._ask_from_pocket()
        self._out.print(plain("\nthe same request: 200", "bold green"))
        self._compare("pocket", granted, position, self._wait_settled(POCKET_KEY, "pocket"))
        self._operator.run("wallet", "show", "pocket")

    def _count(self, _: httpx.Request) -> None:
        self._sent += 1

    # Checks

    def _charged(self, ask: Callable[[], None]) -> None:
        """Run a request of the demo's customer; its balance must move by what the store records."""
        before, position = self._balance(DEMO_KEY), self._position("demo")
        ask()
        self._compare("demo", before, position, self._wait_settled(DEMO_KEY, "demo", position))

    def _compare(self, customer: str, before: int, position: int, after: int) -> None:
        events = self._events(customer, position)
        charged = sum(stored.event.amount_nano for stored in events)
        moved = f"balance {format_amount(before)} → {format_amount(after)}: "
        says = f"{len(events)} events say" if len(events) > 1 else "the event says"
        self._out.print(
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
        return next(iter(self._stored(1, customer)), None)

    def _position(self, customer: str) -> int:
        latest = self._latest(customer)
        return latest.position if latest else 0

    def _events(self, customer: str, position: int) -> list[StoredEvent]:
        """The customer's usage events beyond a position of the store."""
        found = self._stored(10 * MOST_REQUESTS, customer, after=position)
        return [stored for stored in found if stored.event.kind in USAGE_KINDS]

    def _stored(self, limit: int, customer: str, after: int = 0) -> Sequence[StoredEvent]:
        """The customer's latest events; none while nothing has been exported yet."""
        try:
            with closing(SqliteStore.at(self._store_path)) as store:
                return store.latest(limit, customer_id=customer, after=after)
        except StoreMissing:
            return ()

    # What is printed

    def _step(self, title: str) -> None:
        self._out.print()
        self._out.print(Rule(plain(title, "bold"), align="left"))

    def _said(self, text: str | None) -> None:
        self._out.print(plain((text or "").strip(), "green"))

    def _used(self, input_tokens: int, output_tokens: int) -> None:
        self._out.print(plain(f"{input_tokens} tokens in, {output_tokens} out", "dim"))


def _ask(question: str, *, in_parts: bool = False) -> Any:
    """A question after one that was answered: a model this small needs an example.

    in_parts: the answer in the Responses API's form
    """
    shown = "The capital of Spain is Madrid."
    answer: Any = [{"type": "output_text", "text": shown}] if in_parts else shown
    return [
        {"role": "user", "content": "What is the capital of Spain?"},
        {"role": "assistant", "content": answer, **({"type": "message"} if in_parts else {})},
        {"role": "user", "content": question},
    ]
