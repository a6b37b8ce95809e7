"""Meaning of every log event, for the reference page (`docs/reference/log-events.md`).

A test compares the names with the calls in the code, so a new event needs a line here. What an
operator should do goes into the line; how the code got there does not.
"""

from typing import Final

MEANINGS: Final[dict[str, str]] = {
    "abort_failed": "A process could not discard a refused configuration; it is restarted.",
    "accounts_half_written": "A reload failed after some accounts were written. Fix the named problems and reload.",
    "anomaly": "The sequence of events has a gap, or store and ledger disagree. Run `creditgate verify`.",
    "answers_failed": "The store of kept answers failed; retries get 409 without the recorded answer.",
    "background_failed": "A background task of a worker failed and is restarted.",
    "commit_failed": "A process could not switch to the new configuration; it is restarted with it.",
    "configuration_committed": "All processes serve the new configuration.",
    "configuration_problem": "One problem of a refused configuration.",
    "configuration_refused": "A changed configuration was refused; the previous one stays in force.",
    "configuration_unchanged": "A reload found nothing changed.",
    "customers_not_brought": "Configured customers of a frozen shard were not written. Run `creditgate ledger reopen`.",
    "data_folder_open": "The data folder is readable by other users and belongs to another user.",
    "dead_letter": "An event cannot be delivered and was set aside with its reason.",
    "drain_failed": "A worker failed while finishing its running requests.",
    "draining": "The gate is stopping: new requests are refused, running ones finish.",
    "drains_unasked": "A worker received a signal, or lost its supervisor, and drains by itself.",
    "ending_failed": "A settlement or release failed unexpectedly; the hold expires at its deadline.",
    "ending_lost": "A rejected settlement could not be kept either; its hold expires and charges the last checkpoint.",
    "ending_set_aside": "The ledger rejected a settlement permanently; it is kept in `journal/*.rejected`.",
    "endings_not_delivered": "The gate stopped before every settlement was delivered; the journal keeps them.",
    "expire_failed": "A hold past its deadline could not be expired; the sweeper retries.",
    "exporter_failed": "The exporter failed; the supervisor restarts it.",
    "exporter_stands_by": "The ledger's events go to another required store; this exporter waits.",
    "exporter_takes_over": "An exporter that stood by exports now.",
    "exporter_waits": "The store or the ledger is unreachable; the exporter retries with backoff.",
    "extend_failed": "A running stream could not extend its hold; it goes on with what it holds.",
    "grant_kept": "A starting grant has changed terms; the customer keeps what was granted.",
    "handler_failed": "A request handler raised; the client got 500.",
    "holds_expired": "Holds passed their deadline and were charged their last checkpoint.",
    "journal_failed": "A settlement could not be written to the journal. Check the disk.",
    "journal_replayed": "Settlements from the journal were delivered at start.",
    "killed_because_silent": "A process stopped answering the supervisor and was killed.",
    "killed_while_draining": "A process exceeded the drain grace and was killed.",
    "ledger_accepts": "The ledger executes scripts again after it had refused them.",
    "ledger_connect_failed": "Connecting to the ledger failed unexpectedly; the gate retries.",
    "ledger_does_not_start": "The embedded ledger does not start. The fields say why.",
    "ledger_found": "A connection to the ledger is back.",
    "ledger_lost": "A connection to the ledger broke; the gate reconnects with backoff.",
    "ledger_reachable": "The ledger answers the supervisor again.",
    "ledger_refuses": "The ledger answers, but refuses to execute scripts (`code` is the server's word).",
    "ledger_server": "The ledger's server and what it keeps when something dies; a warning if weaker than `always`.",
    "library": "A log record of a library, without its arguments.",
    "needs_a_restart": "A reload changed settings that take effect only at a restart.",
    "notices_unknown": "The supervisor could not read the notices for `/readyz`; it retries.",
    "poll_failed": "The supervisor could not read a process's figures; it retries.",
    "prepare_failed": "A process refused a new configuration because of an unexpected error.",
    "price_book_unreadable": "The price book in the ledger could not be read; the prices known so far stay in force.",
    "prices_in_force": "The price book that requests are charged by.",
    "process_replaced": "A process died or was killed and was replaced.",
    "recurring_grant_goes_on": "A recurring grant left the configuration and still recurs. Amount 0 ends it.",
    "request": "One line per request: id, customer, key, model, decision, reason, status, durations.",
    "request_failed": "A request failed because of a bug in the gate. Report type and place.",
    "serving": "The gate accepts requests.",
    "shard_conflicts_with_store": "Ledger and store have different events at one place. Run `creditgate verify`.",
    "shard_frozen": "A shard lost entries and is frozen. Run `creditgate ledger reopen`.",
    "shard_reopened": "A frozen shard was reopened.",
    "signal_not_taken": "The webhook's receiver did not answer with 2xx; the signal is sent again.",
    "signals_dead": "Signals were given up after `give_up_days`. See `creditgate signals list --state dead`.",
    "signals_wait": "The store of signals cannot be read; delivery waits.",
    "start_failed": "A process failed to start because of an unexpected error.",
    "stopped": "The gate has stopped.",
    "traces_not_taken": "The collector did not take spans; they are dropped and counted. Logged once per outage.",
    "uncaught": "An error that no task caught. Report type and place.",
    "upstream_auth_failed": "The upstream rejected the gate's credential (401 or 403). Correct it and reload.",
    "waits_for_ledger": "The gate waits at start for the ledger to answer.",
}  # fmt: skip

READINESS_WORDS: Final = (
    "The words of `/readyz` are log events too: one line when a word appears (error for the ledger's "
    "state, warning for a notice), and `WORD_cleared` (info) when a notice disappears."
)
"""These names are computed, so no call in the code spells them out."""
