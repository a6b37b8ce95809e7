"""`key create`, `key list`, `key revoke`: API keys that no configuration file names.

A key is shown once, when it is made; what is kept is its hash.
"""

import secrets
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.customers import check_configured
from gateway.cli.output import AsJson, err, fail, out, plain, print_json, row, table
from gateway.cli.parameters import identifier
from gateway.flow.authentication import key_digest
from gateway.ledger.accounts import StoredKey
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.operations.documents import timestamp
from gateway.settings import Settings
from gateway.settings.problems import suggest

key = typer.Typer(help="API keys that act for customers; only their hashes are kept.")
app.add_typer(key, name="key", no_args_is_help=True)

PREFIX: Final = "sk-cg-"
_SECRET_BYTES: Final = 32


@key.command()
def create(
    customer: Annotated[
        str, typer.Argument(metavar="CUSTOMER", help="The customer that it acts for.")
    ],
    project: Annotated[
        str | None,
        typer.Option(parser=identifier, metavar="PROJECT", help="The project that it works for."),
    ] = None,
    key_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            parser=identifier,
            metavar="KEY_ID",
            help="Its name in lists, events and limits; one is made without it.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: it cannot be shown again. It works at once on every gate."""
    made = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)

    async def work(context: Context) -> StoredKey:
        settings = context.settings
        check_configured(settings, customer)
        if not settings.auth.keys:
            raise fail("`auth.keys` is false in the configuration: gates take no API keys")
        digest = key_digest(settings.pepper())(made)
        name = key_id or f"k_{digest[:16]}"
        if name in {configured.key_id for _, configured in settings.api_keys()}:
            raise fail(f"there is a key {name} in the configuration already")
        try:
            return await context.accounts.add_key(digest, name, customer, project)
        except ValueError as taken:
            raise fail(str(taken)) from None
        except LedgerUnavailable as error:
            raise fail(
                f"{error}. Whether the key {name} was made is not known, and it cannot be shown any"
                f" more. When the ledger is back: `creditgate key revoke {name}` if `key list` has"
                " it, then make another one"
            ) from None

    stored = on_ledger(config, work)
    if as_json:
        print_json({"key": made, **_stored(stored)})
        return
    out.print(plain(made), soft_wrap=True)
    said = f"key {stored.key_id} of {customer}: keep it now, it is not shown again"
    err.print(plain(said, "dim"))


@key.command(name="list")
def list_(
    customer: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="Of one customer only.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List keys: those made here, revoked ones too, and those of the configuration."""

    async def work(context: Context) -> list[dict[str, Any]]:
        stored = [_stored(each) for each in await context.accounts.list_keys(customer)]
        found = [*_configured(context.settings, customer), *stored]
        if not found and customer is not None:
            check_configured(context.settings, customer)
        return found

    documents = on_ledger(config, work)
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
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `key list` has it.")],
    kill: Annotated[bool, typer.Option("--kill", help="Cut what runs with it, too.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Revoke a key for ever: its next paid request is refused, whatever worker it comes to.

    Requests that run already end, and are charged, unless they are killed. Revoking it again changes nothing.
    """

    async def work(context: Context) -> StoredKey:
        try:
            revoked = await context.accounts.revoke_key(context.wallets, key_id, kill=kill)
        except LedgerRefusal as refused:
            if refused.word != "unknown_account":
                raise
            # Its customer has no wallet, so no gate can have admitted it: there is nothing to tell them.
            known = await context.accounts.list_keys()
            revoked = next(each for each in known if each.key_id == key_id)
        if revoked is not None:
            if kill:
                await context.changes.announce(revoked.customer_id)
            return revoked
        for customer_id, configured in context.settings.api_keys():
            if configured.key_id == key_id:
                raise fail(
                    f"{key_id} is kept in the configuration, under customers.{customer_id}: take it"
                    " out there. A running gate takes over the change by itself"
                )
        ids = [each.key_id for each in await context.accounts.list_keys()]
        raise fail(f"there is no key {key_id}. {suggest(key_id, ids)}")

    revoked = on_ledger(config, work)
    if as_json:
        print_json(_stored(revoked))
        return
    said = f"Revoked {revoked.key_id} of {revoked.customer_id}."
    out.print(plain(said, "bold green"))


def _configured(settings: Settings, customer: str | None) -> Iterator[dict[str, Any]]:
    for customer_id, section in settings.api_keys():
        if customer in (None, customer_id):
            yield {
                "key_id": section.key_id,
                "customer_id": customer_id,
                "project_id": section.project,
                "kept_in": "configuration",
                "sha256": section.sha256,
                "created_at": None,
                "revoked_at": None,
            }


def _stored(stored: StoredKey) -> dict[str, Any]:
    revoked_at_ms = stored.revoked_at_ms
    return {
        "key_id": stored.key_id,
        "customer_id": stored.customer_id,
        "project_id": stored.project_id,
        "kept_in": "ledger",
        "sha256": stored.digest,
        "created_at": timestamp(stored.created_at_ms),
        "revoked_at": None if revoked_at_ms is None else timestamp(revoked_at_ms),
    }
