"""Changes that take effect once per idempotency key: grant, adjust, refund."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.operations.errors import Conflict, OutcomeUnknown

KEY_CHARS_MOST: Final = 64


def is_idempotency_key(text: str) -> bool:
    """Whether a text can be an idempotency key."""
    return 0 < len(text) <= KEY_CHARS_MOST and text.isascii() and text.isprintable()


def new_idempotency_key(prefix: str = "cli") -> str:
    """A key that nobody has used."""
    return f"{prefix}-{secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class Change:
    """One change under one key.

    verb:     what happens, as in "Whether it was …": granted, adjusted, refunded
    subject:  what it happens to
    refusals: the ledger's word → a sentence, in which {key} and {subject} are filled in
    """

    key: str
    verb: str
    subject: str
    refusals: Mapping[str, str]

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise Conflict for what the ledger refuses, OutcomeUnknown for a lost answer."""
        try:
            yield
        except LedgerRefusal as refused:
            sentence = self.refusals.get(refused.word)
            if sentence is None:
                raise
            raise Conflict(sentence.format(key=self.key, subject=self.subject)) from refused
        except LedgerUnavailable as error:
            if not error.unknown:
                raise
            raise OutcomeUnknown(
                f"{error}. Whether {self.subject} was {self.verb} is not known. Repeating it with the"
                f" idempotency key {self.key} is safe: it takes effect once",
                self.key,
            ) from error
