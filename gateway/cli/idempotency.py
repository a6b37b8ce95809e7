"""`--key` of the commands that change a wallet once per idempotency key: grant, adjust, refund."""

from dataclasses import dataclass, field
from typing import Any

from gateway.cli.output import err, out, plain, print_json
from gateway.operations.idempotency import new_idempotency_key


@dataclass(slots=True)
class KeyOption:
    """The key of one change. given: the caller's; None generates one, which is printed at the end"""

    given: str | None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.given or new_idempotency_key()

    def print(self, document: dict[str, Any], done: str, rest: str) -> None:
        """Print what was done, or that it had been done before.

        document: has `replayed`. done: a sentence. rest: the state now
        """
        if document["replayed"]:
            said = f"The key {self.key} was used for this before: nothing was changed."
            out.print(plain(said, "yellow"))
        else:
            out.print(plain(done, "bold green"))
        out.print(plain(rest))
        if self.given is None:
            err.print(plain(f"To repeat this safely: --key {self.key}", "dim"))

    def answer(self, document: dict[str, Any], done: str, rest: str, *, as_json: bool) -> None:
        """Print the document as JSON, or the sentences."""
        if as_json:
            print_json(document)
        else:
            self.print(document, done, rest)
