"""What the commands share that change a wallet once by an idempotency key: grant, adjust, refund."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.cli.output import err, fail, out, plain, print_json
from gateway.cli.parameters import new_idempotency_key
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable


@dataclass(slots=True)
class IdempotencyKey:
    """One change under one key.

    given:   the caller's key; None makes one, which is printed at the end
    verb:    what happens, as in "Whether it was …": granted, adjusted, refunded
    subject: what it happens to
    """

    given: str | None
    verb: str
    subject: str
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.given or new_idempotency_key()

    @contextmanager
    def explained(self, refusals: Mapping[str, str]) -> Iterator[None]:
        """End the command with one line for what the ledger refuses, and for an unknown outcome.

        refusals: word → sentence, in which {key} and {subject} are filled in
        """
        try:
            yield
        except LedgerRefusal as refused:
            said = refusals[refused.word].format(key=self.key, subject=self.subject)
            raise fail(said) from None
        except LedgerUnavailable as error:
            if not error.unknown:
                raise
            raise fail(
                f"{error}. Whether {self.subject} was {self.verb} is not known. Run this again with"
                f" --key {self.key}: that happens once in all"
            ) from None

    def tell(self, document: dict[str, Any], done: str, rest: str, *, as_json: bool) -> None:
        """Print what came of it. document: has `replayed`; rest: how things stand now."""
        if as_json:
            print_json({**document, "key": self.key})
            return
        if document["replayed"]:
            said = f"The key {self.key} has {self.verb} {self.subject} this before:"
            out.print(plain(f"{said} nothing was changed.", "yellow"))
        else:
            out.print(plain(done, "bold green"))
        out.print(plain(rest))
        if self.given is None:
            err.print(plain(f"To repeat this so that it happens once: --key {self.key}", "dim"))
