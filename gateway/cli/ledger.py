"""`ledger`: whether the ledger can serve, and how a shard that lost entries serves again."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from gateway.app.roles import CannotServe
from gateway.app.sync import sync_accounts
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.output import AsJson, err, fail, out, plain, print_json, progress, row, table
from gateway.ledger.accounts import RedisRunner
from gateway.ledger.client.fitness import find_trouble
from gateway.ledger.repair import Repair
from gateway.ledger.shards import Shards
from gateway.operations.documents import verified_document
from gateway.operations.reopen import Desk, Reopened, ShardStatus, ledger_status, reopen
from gateway.operations.verify import Verified, verify

ledger = typer.Typer(help="Whether the ledger can serve, and how it serves again.")
app.add_typer(ledger, name="ledger", no_args_is_help=True)

KEYS_NOTE = (
    "API keys are not in the store: those made with `creditgate key create` after the copy that the"
    " ledger was restored from have to be made again."
)


@dataclass(slots=True)
class _Repaired:
    """What `reopen` did."""

    shards: list[Reopened] = field(default_factory=list)
    verified: Verified | None = None
    not_brought: str | None = None
    """Why the configuration's customers could not be brought into the ledger."""

    @property
    def clean(self) -> bool:
        opened = all(shard.epoch is not None for shard in self.shards)
        lost = any(shard.not_applied for shard in self.shards)
        verified = self.verified is not None and self.verified.clean
        return opened and not lost and verified and self.not_brought is None


@ledger.command()
def status(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Say whether the server can hold the ledger, and which shards have lost entries; exit 1 if any."""

    async def work(context: Context) -> tuple[str | None, list[ShardStatus]]:
        trouble = await find_trouble(context.client)
        shards = await ledger_status(context.outbox, context.store)
        return (trouble.sentence if trouble else None), shards

    trouble, shards = on_ledger(config, work)
    shut = [shard for shard in shards if shard.state != "open"]
    if as_json:
        document = {
            "server": trouble,
            "shards": len(shards),
            "shut": [_status_document(s) for s in shut],
        }
        print_json(document)
    else:
        _show_status(trouble, shards, shut)
    if trouble or shut:
        raise typer.Exit(1)


@ledger.command(name="reopen")
def reopen_command(
    shard: Annotated[
        int | None, typer.Option(min=0, help="This one; without it all that have lost entries.")
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option(help="Open a shard although some events could not be done again.")
    ] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Do again, from the store, what a shard has lost; open it; and verify. Exit 1 if not all is well.

    Gates may run meanwhile, and the command may be repeated after any failure. Balances and grants
    become what the store's events say. It names by id what it cannot do again.
    """

    async def work(context: Context) -> _Repaired:
        if shard is not None and shard >= context.settings.redis.shards:
            raise fail(f"there is no shard {shard}: the ledger has {context.settings.redis.shards}")
        wanted = [
            each.number
            for each in await ledger_status(context.outbox, context.store)
            if each.state != "open" and shard in (None, each.number)
        ]
        repair = Repair(Shards(RedisRunner(context.client), context.accounts.keys))
        desk = Desk(repair, context.audit, context.outbox, context.store)
        repaired = _Repaired()
        with progress(shown=err.is_terminal and not as_json) as tell:
            for number in wanted:
                name = f"shard {number}"

                def done(at: int, of: int, name: str = name) -> None:
                    tell(name, at, of)

                opened = await reopen(desk, number, accept_loss=accept_loss, progress=done)
                if opened is not None:
                    repaired.shards.append(opened)
            if any(each.epoch is not None for each in repaired.shards):
                await _bring_customers(context, repaired)
            repaired.verified = await verify(context.audit, context.outbox, context.store, tell)
        return repaired

    repaired = on_ledger(config, work)
    if as_json:
        print_json(_document(repaired))
    else:
        _show(repaired)
    if not repaired.clean:
        raise typer.Exit(1)


async def _bring_customers(context: Context, repaired: _Repaired) -> None:
    """What a gate left out when it started beside the shut shard."""
    try:
        await sync_accounts(context.settings, context.wallets, context.accounts)
    except CannotServe as refused:
        repaired.not_brought = str(refused)


def _show_status(trouble: str | None, shards: list[ShardStatus], shut: list[ShardStatus]) -> None:
    if trouble:
        out.print(plain(f"Nothing is admitted: {trouble}.", "bold red"))
    if not shut:
        out.print(plain(f"{len(shards)} shards, none has lost entries."))
        return
    shown = table("shard", "state", "its last entry", "the store's last", "lost", right=("lost",))
    for each in shut:
        row(shown, (each.number, each.state, *_places(each), each.lost), "red")
    out.print(shown)
    said = f"{len(shut)} of {len(shards)} shards are shut: `creditgate ledger reopen` repairs them."
    out.print(plain(said, "bold red"))


def _show(repaired: _Repaired) -> None:
    if not repaired.shards:
        out.print(plain("No shard has lost entries; nothing was changed."))
    for shard in repaired.shards:
        said = f"Shard {shard.number}: {shard.applied} events done again, {shard.kept} kept"
        ends = "still shut." if shard.epoch is None else f"open in epoch {shard.epoch}."
        out.print(plain(f"{said}; {ends}", "yellow" if shard.epoch is None else "bold green"))
        for each in shard.not_applied:
            out.print(plain(f"  not done again: {each.event_id}: {each.reason}", "red"))
        if shard.not_applied and shard.epoch is None:
            out.print(plain("  To open it without these: `--accept-loss`.", "yellow"))
        for event_id in shard.assumed:
            said = f"  {event_id}: its terms are not recorded; check priority, groups and expiry"
            out.print(plain(said, "yellow"))
        if shard.uncounted:
            names = ", ".join(sorted(shard.uncounted))
            said = (
                f"  limits, tiers and included units do not count what was done again of: {names}"
            )
            out.print(plain(said, "yellow"))
    if repaired.not_brought:
        out.print(plain(f"The customers were not brought in: {repaired.not_brought}", "red"))
    if repaired.shards:
        out.print(plain(KEYS_NOTE))
    verified = repaired.verified
    if verified is not None and verified.clean:
        out.print(plain("Verified: no drift.", "bold green"))
    elif verified is not None:
        said = f"{len(verified.drifts)} drifts: see `creditgate verify`."
        out.print(plain(said, "bold red"))


def _places(shard: ShardStatus) -> tuple[str, str]:
    stored = shard.stored
    last = f"{shard.last.epoch}-{shard.last.seq}" if shard.last.seq >= 0 else "none"
    return last, "none" if stored is None else f"{stored.epoch}-{stored.seq}"


def _status_document(shard: ShardStatus) -> dict[str, Any]:
    last, stored = _places(shard)
    return {
        "shard": shard.number,
        "state": shard.state,
        "last": last,
        "stored": stored,
        "lost": shard.lost,
    }


def _document(repaired: _Repaired) -> dict[str, Any]:
    verified = repaired.verified
    return {
        "shards": [
            {
                "shard": shard.number,
                "epoch": shard.epoch,
                "applied": shard.applied,
                "kept": shard.kept,
                "not_applied": {each.event_id: each.reason for each in shard.not_applied},
                "assumed": shard.assumed,
                "uncounted": sorted(shard.uncounted),
            }
            for shard in repaired.shards
        ],
        "not_brought": repaired.not_brought,
        "verified": None if verified is None else verified_document(verified),
    }
