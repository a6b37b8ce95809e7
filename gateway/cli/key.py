"""`key create|list|rotate|revoke`: API keys that no configuration file names.

A key is shown once, when it is created; the ledger keeps its hash.
"""

import time
from typing import Annotated, Any, Final

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.limit_options import key_limit
from gateway.cli.output import AsJson, err, moment, out, plain, print_json, row, table
from gateway.cli.parameters import Reason, identifier
from gateway.cli.periods import duration_ms, expiry_ms
from gateway.domain.key_terms import KeyTerms
from gateway.domain.limits import Limit
from gateway.operations.keys import (
    GRACE_MS,
    KeyCreated,
    KeyEntry,
    NewKey,
    create_key,
    key_document,
    list_keys,
    revoke_key,
    rotate_key,
    shown_of_key,
)

key = typer.Typer(help="API keys that act for customers; only their hashes are kept.")
app.add_typer(key, name="key", no_args_is_help=True)

_CREATED: Final = "key {} of {}: store it now, it is not shown again"


@key.command()
def create(
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="The customer it acts for.")],
    project: Annotated[
        str | None,
        typer.Option(parser=identifier, metavar="PROJECT", help="The project it belongs to."),
    ] = None,
    key_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            parser=identifier,
            metavar="KEY_ID",
            help="Its id in lists, events and limits; generated if omitted.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    expires: Annotated[
        int | None,
        typer.Option(
            metavar="WHEN",
            parser=expiry_ms,
            help="When it ends: a date (UTC), a moment with its time zone, or 90d from now.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Restrict it to this model; may be repeated."),
    ] = None,
    limit: Annotated[
        list[Limit] | None,
        typer.Option(
            metavar="MEASURE/WINDOW=CEILING",
            parser=key_limit,
            help="Of this key alone, such as requests/day=100, spend/month=25.00 or concurrent=5; may be"
            " repeated. It replaces the plan's limit of keys with the same measure and window.",
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR", help="Accept it only from here, such as 10.0.0.0/8; may be repeated."
        ),
    ] = None,
    test: Annotated[
        bool,
        typer.Option("--test", help="Charge the customer's test wallet, with `livemode: false`."),
    ] = False,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it once: it cannot be shown again. It is valid at once on every gate."""
    terms = KeyTerms(
        name,
        expires,
        frozenset(model) if model else None,
        tuple(limit or ()),
        tuple(network or ()),
        test,
    )
    new = NewKey(customer, project, key_id, terms)
    _print_created(on_ledger(config, lambda backend: create_key(backend, new, reason)), as_json)


@key.command()
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `key list` shows it.")],
    grace: Annotated[
        int,
        typer.Option(
            metavar="DURATION",
            parser=duration_ms,
            help="How long the old key stays valid: 30m, 24h, 7d; 0 revokes it at once.",
        ),
    ] = f"{GRACE_MS // 3_600_000}h",  # type: ignore[assignment]  # its parser reads the default, too
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Replace a key: create one with the same options, and end the old one after a grace."""
    _print_created(
        on_ledger(config, lambda backend: rotate_key(backend, key_id, grace, reason)), as_json
    )


@key.command(name="list")
def list_(
    customer: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="Only this customer's.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List keys: created ones, including revoked ones, and those of the configuration.

    The last use is up to 10 seconds late; it is not known of keys of the configuration.
    """

    entries = on_ledger(config, lambda backend: list_keys(backend, customer))
    if as_json:
        print_json([key_document(entry) for entry in entries])
        return
    shown = table(
        "key", "of", "name", "shown", "created", "last used", "status", whole=["key", "shown"]
    )
    now_ms = time.time_ns() // 1_000_000
    for each in entries:
        status = _status(each, now_ms)
        cells = (
            each.key_id,
            "/".join(filter(None, (each.customer_id, each.project_id))),
            each.terms.name,
            shown_of_key(each),
            _minute(each.created_at_ms)[:10],
            _minute(each.last_used_at_ms),
            status,
        )
        row(shown, cells, "dim" if status.startswith(("revoked", "expired")) else None)
    out.print(shown)


@key.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `key list` shows it.")],
    kill: Annotated[bool, typer.Option("--kill", help="Cancel its running requests, too.")] = False,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Revoke a key permanently: its next paid request is refused on every gate.

    Running requests end and are charged, unless they are killed. Revoking a key again changes nothing.
    """

    revoked = on_ledger(
        config, lambda backend: revoke_key(backend, key_id, kill=kill, reason=reason)
    )
    if as_json:
        print_json(key_document(revoked))
        return
    said = f"Revoked {revoked.key_id} of {revoked.customer_id}."
    out.print(plain(said, "bold green"))


def _print_created(created: KeyCreated, as_json: bool) -> None:
    """The secret alone on stdout, so that it can be piped."""
    entry = created.entry
    if as_json:
        document: dict[str, Any] = {"key": created.secret, **key_document(entry)}
        print_json(document)
        return
    out.print(plain(created.secret), soft_wrap=True)
    err.print(plain(_CREATED.format(entry.key_id, entry.customer_id), "dim"))


def _status(entry: KeyEntry, now_ms: int) -> str:
    if entry.kept_in == "configuration":
        return "in the configuration"
    if entry.revoked_at_ms is not None:
        return f"revoked {_minute(entry.revoked_at_ms)}"
    expires_at_ms = entry.terms.expires_at_ms
    if expires_at_ms is None:
        return "valid"
    said = "expired" if expires_at_ms <= now_ms else "valid until"
    return f"{said} {_minute(expires_at_ms)}"


def _minute(unix_ms: int | None) -> str:
    return "" if unix_ms is None else moment(unix_ms)[:16]
