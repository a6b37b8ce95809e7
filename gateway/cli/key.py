"""`key create`, `key list`, `key revoke`: API keys that no configuration file names.

A key is shown once, when it is created; the ledger keeps its hash.
"""

from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import AsJson, err, out, plain, print_json, row, table
from gateway.cli.parameters import Reason, identifier
from gateway.operations.keys import NewKey, create_key, key_document, list_keys, revoke_key

key = typer.Typer(help="API keys that act for customers; only their hashes are kept.")
app.add_typer(key, name="key", no_args_is_help=True)


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
            help="Its name in lists, events and limits; generated if omitted.",
        ),
    ] = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it once: it cannot be shown again. It is valid at once on every gate."""
    created = on_ledger(
        config, lambda backend: create_key(backend, NewKey(customer, project, key_id), reason)
    )
    if as_json:
        print_json({"key": created.secret, **key_document(created.entry)})
        return
    out.print(plain(created.secret), soft_wrap=True)
    said = f"key {created.entry.key_id} of {customer}: store it now, it is not shown again"
    err.print(plain(said, "dim"))


@key.command(name="list")
def list_(
    customer: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="Only this customer's.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List keys: created ones, including revoked ones, and those of the configuration."""

    entries = on_ledger(config, lambda backend: list_keys(backend, customer))
    documents = [key_document(entry) for entry in entries]
    if as_json:
        print_json(documents)
        return
    columns = ("customer", "project", "kept in", "made", "status")
    shown = table("key", *columns, whole=["key"])
    for each in documents:
        row(
            shown,
            (
                each["key_id"],
                each["customer_id"],
                each["project_id"],
                each["kept_in"],
                each["created_at"],
                f"revoked {each['revoked_at']}" if each["revoked_at"] else "valid",
            ),
            "dim" if each["revoked_at"] else None,
        )
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
