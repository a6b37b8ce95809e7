"""A refusal that lasts: logged when it begins and when it ends, and why nothing is ready meanwhile."""

import structlog

from gateway.ledger.client.faults import NOT_EXECUTED, OF_ONE_CALL
from gateway.ledger.client.scripts import Script

_log = structlog.get_logger()


class LastingRefusal:
    """Whether a server refuses scripts at the moment. One for each runner."""

    def __init__(self, connection: str) -> None:
        """connection: its name, for the log"""
        self._connection = connection
        self._script = ""
        self.word: str | None = None
        """With which it refuses (`OOM`, `NOPERM`, …); None while it does not."""

    def refused(self, script: Script, word: str) -> None:
        """A script was answered with an error."""
        if word in NOT_EXECUTED and word not in OF_ONE_CALL and self.word is None:
            self._script, self.word = script.name, word
            reason = NOT_EXECUTED[word]
            _log.error("ledger_refuses", connection=self._connection, code=word, reason=reason)

    def accepted(self, script: Script) -> None:
        """A script was run; the one that was refused is what counts, for others are refused less."""
        if self.word is not None and self._script == script.name:
            _log.warning("ledger_accepts", connection=self._connection, after=self.word)
            self.word = None
